"""Open load: requests arrive by a Poisson process, independent of the server. Latency is from arrival to mp4.

Rates are shares of the engine's throughput with every adapter resident, which is measured first in the same run.
"""

from __future__ import annotations

import bisect
import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.serving_bench.ours import Ours, Run
from benchmarks.serving_bench.runs import Progress, latency_row, make_side, run_side
from benchmarks.serving_bench.setup import Job, Setup, Shape, make_jobs

FETCH_SECONDS = 0.5  # time to fetch a cold adapter from its registry
COLD_SHARE = 0.05  # of the hot tenants' rate


def capacity(setup: Setup, shape: Shape, *, adapters: int, max_batch: int, requests: int) -> float:
    """Requests per second with every adapter in a slot."""
    ours, _ = make_side("ours", setup, adapters, adapters, max_batch)
    try:
        ours.run(make_jobs(max_batch, adapters), shape)
        run = ours.run(make_jobs(requests, adapters), shape)
    finally:
        ours.close()
    return len(run.records) / run.seconds


def measure_poisson(
    setup: Setup,
    sides: Sequence[str],
    shape: Shape,
    *,
    rate: float,
    load: float,
    adapters: int,
    few_slots: int,
    exponent: float,
    requests: int,
    max_batch: int,
    repeats: int,
    tell: Progress,
) -> dict[str, Any]:
    """Measure the engine with every adapter resident and with few slots, and other sides, with the same arrivals."""
    kinds = {"ours, all resident": ("ours", adapters), f"ours, {few_slots} slots": ("ours", few_slots)}
    kinds |= {name: (name, adapters) for name in sides if name != "ours"}
    ready = {
        kind: make_side(name, setup, adapters, slots, max_batch)[0] for kind, (name, slots) in kinds.items()
    }
    runs: dict[str, list[Run]] = {kind: [] for kind in kinds}
    for turn in range(repeats):
        jobs = make_jobs(requests, adapters, exponent, rate, seed=turn)
        for kind, side in ready.items():
            tell(
                f"load {load:g}, {adapters} adapters, zipf {exponent:g}: {kind}, turn {turn + 1} of {repeats}"
            )
            runs[kind].append(run_side(side, jobs, shape))
    for side in ready.values():
        if isinstance(side, Ours):
            side.close()
    rows = {kind: latency_row(of) for kind, of in runs.items()}
    for kind, row in rows.items():
        row["p99_ratio"] = row["p99"] / rows["ours, all resident"]["p99"]
        sizes = [size for run in runs[kind] for size in run.batch_sizes]
        row["mean_batch"] = statistics.mean(sizes) if sizes else 1.0
    joins = [steps for run in runs["ours, all resident"] for steps in steps_until_joined(run, max_batch)]
    return {
        "adapters": adapters,
        "zipf": exponent,
        "load": load,
        "rate": rate,
        "max_batch": max_batch,
        "shape": str(shape),
        "sides": rows,
        "joined": {
            "requests": len(joins),
            "at_most_one_step": sum(n <= 1 for n in joins) / len(joins) if joins else None,
            "most": max(joins, default=0),
        },
    }


def steps_until_joined(run: Run, max_batch: int) -> list[int]:
    """For each request that arrived while the batch had room: how many steps ended before it joined."""
    ends = sorted({round(when, 4) for record in run.records.values() for when, _, _ in record.steps})
    records = sorted(run.records.values(), key=lambda record: record.arrival)
    found = []
    for index, record in enumerate(records):
        present = [other for other in records[:index] if other.steps[-1][0] > record.arrival]
        if len(present) < max_batch:
            first, last = (bisect.bisect_right(ends, at) for at in (record.arrival, record.admitted))
            found.append(steps_apart(ends[first:last]))
    return found


def steps_apart(ends: Sequence[float], together: float = 0.002) -> int:
    """The number of steps with these end times; the requests of one step are notified one after another."""
    return sum(1 for before, now in zip([-1.0, *ends], ends, strict=False) if now - before > together)


def measure_cold(
    setup: Setup,
    shape: Shape,
    *,
    rate: float,
    load: float,
    hot: int,
    requests: int,
    max_batch: int,
    repeats: int,
    tell: Progress,
) -> dict[str, Any]:
    """Measure hot tenants alone, with an extra tenant whose adapter is resident, and with one whose every adapter is fetched.

    The second case separates the cost of the cold tenant's load from the cost of fetching its adapters.
    """
    runs: dict[str, list[Run]] = {"hot alone": [], "+ a resident tenant": [], "+ a cold tenant": []}
    guests = max(1, round(requests * COLD_SHARE))
    assert len(setup.adapters) >= hot + guests, "each request of the cold tenant needs an adapter of its own"
    cold = frozenset(stored.used.sha256 for stored in setup.adapters[hot : hot + guests])
    for turn in range(repeats):
        jobs = [
            dataclasses.replace(job, tenant=f"hot{job.adapter}")
            for job in make_jobs(requests, hot, 0.9, rate, turn)
        ]
        extra = make_jobs(guests, 1, 0.0, rate * COLD_SHARE, seed=turn + 100)
        for kind, of in runs.items():
            tell(f"cold tenant: {kind}, turn {turn + 1} of {repeats}")
            joined = (
                []
                if kind == "hot alone"
                else [
                    guest(job, number + hot if "cold" in kind else 0, jobs[-1].arrival * number / guests)
                    for number, job in enumerate(extra)
                ]
            )
            away = cold if "cold" in kind else frozenset()
            side = Ours(setup, hot + 4, max_batch=max_batch, away=away, delay=FETCH_SECONDS)
            side.warm(range(hot))
            of.append(side.run(sorted([*jobs, *joined], key=lambda job: job.arrival), shape))
            side.close()
    rows = {kind: latency_row(of, lambda id: not id.startswith("guest")) for kind, of in runs.items()}
    guests_of = {
        kind: latency_row(of, lambda id: id.startswith("guest")) for kind, of in runs.items() if "+" in kind
    }
    for row in rows.values():
        row["p99_ratio"] = row["p99"] / rows["hot alone"]["p99"]
    return {
        "hot": hot,
        "load": load,
        "cold_share": COLD_SHARE,
        "fetch_seconds": FETCH_SECONDS,
        "shape": str(shape),
        "hot_tenants": rows,
        "guest": guests_of,
        "cold / resident guest p99": rows["+ a cold tenant"]["p99"] / rows["+ a resident tenant"]["p99"],
    }


def guest(job: Job, adapter: int, arrival: float) -> Job:
    return dataclasses.replace(
        job, id=f"guest{job.id}", seed=job.seed + 10**6, adapter=adapter, arrival=arrival, tenant="guest"
    )
