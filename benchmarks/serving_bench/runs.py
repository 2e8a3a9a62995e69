"""Workloads on whole servers: throughput and latency of every side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.serving_bench.baselines import BASELINES, Stock
from benchmarks.serving_bench.ours import Ours, Record, Run, keeping_frames
from benchmarks.serving_bench.setup import Job, Setup, Shape, make_jobs
from benchmarks.serving_bench.steps import Clock, summary

Progress = Callable[[str], None]
TOLERANCE = 2  # allowed difference of two sides' frames in grey levels (of 255): rounding 1, schedulers 1


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def run_stock(stock: Stock, jobs: Sequence[Job], shape: Shape) -> Run:
    """Serve in order of arrival, in this thread; a side with batches takes all that have arrived."""
    records = {job.id: Record(job.arrival) for job in jobs}
    began, waiting = time.monotonic(), list(jobs)
    while waiting:
        pause = waiting[0].arrival - (time.monotonic() - began)
        if pause > 0:
            time.sleep(pause)
        now = time.monotonic() - began
        taken = [job for job in waiting[: stock.batch] if job.arrival <= now] or waiting[:1]
        del waiting[: len(taken)]
        made = stock.make(taken, shape)
        for job in taken:
            record = records[job.id]
            record.admitted, record.finished = now, time.monotonic() - began
            record.mp4 = made[job.id][1]
    last = max(record.finished for record in records.values())
    return Run(records, last - min(job.arrival for job in jobs))


def compare_frames(setup: Setup, sides: Sequence[str], shape: Shape, tell: Progress) -> dict[str, Any]:
    """Largest difference of each side's frames from ours in grey levels, or why the side does not work here.

    Raises AssertionError if a working side makes different frames.
    """
    count = min(4, len(setup.adapters))
    jobs = make_jobs(count, count)
    with keeping_frames() as kept:
        ours = Ours(setup, count)
        ours.run(jobs, shape)
        ours.close()
        mine = dict(kept)
        if "F" in sides:
            restricted = Ours(setup, count, one_adapter=True)
            restricted.run(jobs, shape)
            restricted.close()
    base = [mine[job.seed] for job in jobs]
    found: dict[str, Any] = {}
    if "F" in sides:
        found["F"] = max(level_gap(kept[job.seed], frames) for job, frames in zip(jobs, base, strict=True))
    for name in sides:
        if name not in BASELINES:
            continue
        tell(f"frames: {name}")
        try:
            stock = BASELINES[name](setup, count)
            made = {}
            for first in range(0, count, stock.batch):
                made |= stock.make(jobs[first : first + stock.batch], shape)
        except (ValueError, RuntimeError) as error:  # raised by PEFT and diffusers for unsupported cases
            found[name] = f"does not work with this model class: {' '.join(str(error).split())[:160]}"
            continue
        found[name] = max(level_gap(made[job.id][0], frames) for job, frames in zip(jobs, base, strict=True))
    for name, gap in found.items():
        assert isinstance(gap, str) or gap <= TOLERANCE, f"{name}'s frames differ by {gap} grey levels"
    return found


def level_gap(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape, (a.shape, b.shape)
    return int(np.abs(a.astype(int) - b).max())


def make_side(name: str, setup: Setup, adapters: int, slots: int, max_batch: int) -> tuple[Any, float]:
    """A side that is ready for requests, and the seconds to prepare it. "ours" and "F" are engines."""
    began = time.monotonic()
    if name in BASELINES:
        return BASELINES[name](setup, max(1, adapters)), time.monotonic() - began
    side = Ours(setup, slots, max_batch=max_batch, one_adapter=name == "F")
    side.warm(range(min(adapters, slots)))
    return side, time.monotonic() - began


def run_side(side: Any, jobs: Sequence[Job], shape: Shape) -> Run:
    return side.run(jobs, shape) if isinstance(side, Ours) else run_stock(side, jobs, shape)


def measure_throughput(
    setup: Setup,
    sides: Sequence[str],
    shape: Shape,
    *,
    adapters: int,
    exponent: float,
    requests: int,
    slots: int,
    max_batch: int,
    repeats: int,
    clock: Clock,
    tell: Progress,
) -> dict[str, Any]:
    """Requests per wall-clock minute if all are present at the start; the sides take turns."""
    jobs = make_jobs(requests, adapters, exponent)
    ready, found = {}, {}
    for name in sides:
        tell(f"{adapters} adapters: preparing {name}")
        ready[name], seconds = make_side(name, setup, adapters, slots, max_batch)
        found[name] = {"ready_seconds": seconds, "per_minute": [], "slot_loads": 0, "batch_adapters": 0.0}
    for side in ready.values():  # the first call is slower on every side
        run_side(side, jobs[: getattr(side, "batch", 1)], Shape(shape.bucket, 1, shape.guidance_scale))
    for turn in range(repeats):
        for name, side in ready.items():
            tell(f"{adapters} adapters, zipf {exponent:g}: {name}, turn {turn + 1} of {repeats}")
            began = clock()
            run = run_side(side, jobs, shape)
            found[name]["per_minute"].append(60 * requests / (clock() - began))
            if run.batch_adapters:
                found[name]["slot_loads"] = run.slot_loads
                found[name]["batch_adapters"] = statistics.mean(run.batch_adapters)
    for side in ready.values():
        if isinstance(side, Ours):
            side.close()
    for side in found.values():
        mine, theirs = found["ours"]["per_minute"], side["per_minute"]
        side["ours_times"] = summary([a / b for a, b in zip(mine, theirs, strict=True)])
        side["per_minute"] = summary(theirs)
    return {
        "adapters": adapters,
        "zipf": exponent,
        "requests": requests,
        "slots": slots,
        "max_batch": max_batch,
        "ranks": sorted({stored.rank for stored in setup.adapters[: max(1, adapters)]}),
        "shape": str(shape),
        "sides": found,
    }


def latency_row(runs: Sequence[Run], keep: Callable[[str], bool] = lambda id: True) -> dict[str, float]:
    """Latencies of several runs combined, in seconds."""
    latencies = [value for run in runs for value in run.latencies(keep)]
    waits = [
        record.admitted - record.arrival
        for run in runs
        for id, record in run.records.items()
        if keep(id) and record.admitted
    ]
    return {
        "requests": len(latencies),
        "p50": percentile(latencies, 0.5),
        "p99": percentile(latencies, 0.99),
        "wait_p50": percentile(waits, 0.5),
        "wait_p99": percentile(waits, 0.99),
        "slot_loads": sum(run.slot_loads for run in runs),
    }
