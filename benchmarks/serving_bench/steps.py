"""Cost of one denoising step: the bank, mixing, switching, loading an adapter into a slot.

The sides take turns, so that load on the machine affects all of them alike. Ratios are medians of the ratios within a turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.serving_bench.setup import Setup, Shape, make_jobs
from models.adapters.file import read_adapter
from models.denoise import Denoising, denoise_step, routing_of, start
from models.generation import GenerationParams, SlotUse
from models.load import load_foundation

Progress = Callable[[str], None]
Clock = Callable[[], float]
# On a shared machine only the process's CPU time is meaningful, with one thread.
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def turns_ms(
    sides: dict[str, Callable[[], Any]], repeats: int, device: torch.device, clock: Clock, tell: Progress
) -> dict[str, list[float]]:
    """Time of each side's call in each turn, in milliseconds, after one uncounted turn."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        tell(f"steps: turn {turn} of {repeats}")
        for name, call in sides.items():
            synchronize(device)
            began = clock()
            call()
            synchronize(device)
            if turn:
                times[name].append((clock() - began) * 1e3)
    return times


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratio(times: dict[str, list[float]], a: str, b: str) -> dict[str, float]:
    """a / b within each turn, summarized."""
    return summary([x / y for x, y in zip(times[a], times[b], strict=True)])


def measure_steps(
    setup: Setup, shape: Shape, repeats: int, clock: Clock, tell: Progress, batch: int = 8
) -> dict[str, Any]:
    """Times in milliseconds and the ratios of the targets. The setup must have at least `batch` adapters."""
    plain = load_foundation(setup.source, device=setup.foundation.device)
    ours = load_foundation(setup.source, device=setup.foundation.device)
    bank = ours.add_bank({"temporal": batch + 1}, setup.rank)
    read = [read_adapter(stored.folder, ours) for stored in setup.adapters[:batch]]
    images = [bank.pack("temporal", adapter.tensors) for adapter in read]
    for slot, image in enumerate(images, 1):
        bank.load("temporal", slot, image)

    def states(foundation: Any, slots: Sequence[int | None]) -> list[Denoising]:
        return [
            start(
                foundation,
                GenerationParams(
                    prompt=job.prompt,
                    seed=job.seed,
                    **asdict(shape.bucket),
                    steps=500,  # enough for the same requests to keep stepping
                    guidance_scale=shape.guidance_scale,
                    adapters=() if slot is None else (SlotUse(path="temporal", slot=slot),),
                ),
            )
            for job, slot in zip(make_jobs(len(slots), 1), slots, strict=True)
        ]

    every = range(1, batch + 1)
    sets = {
        "base, no bank": (plain, states(plain, [None] * batch)),
        "bank, nobody uses it": (ours, states(ours, [None] * batch)),
        "bank, one adapter for all": (ours, states(ours, [1] * batch)),
        "bank, all different": (ours, states(ours, list(every))),
    }
    alone = states(ours, list(every))
    base_alone, one_alone = states(plain, [None]), states(ours, [1])
    sides: dict[str, Callable[[], Any]] = {
        name: (lambda f=foundation, s=some: denoise_step(f, s)) for name, (foundation, some) in sets.items()
    }
    sides["F: one adapter a forward"] = lambda: [denoise_step(ours, [one]) for one in alone]
    sides["base, one request"] = lambda: denoise_step(plain, base_alone)
    sides["bank, one request"] = lambda: denoise_step(ours, one_alone)
    rows = [one for one in sets["bank, all different"][1] for _ in range(2 if one.guided else 1)]
    sides["switch: a batch's routing"] = lambda: routing_of(ours, rows)
    sides["switch: one request's routing"] = lambda: routing_of(ours, one_alone)
    sides["host to slot"] = lambda: bank.load("temporal", batch + 1, images[0])
    sides["disk to host"] = lambda: bank.pack(
        "temporal", read_adapter(setup.adapters[0].folder, ours).tensors
    )
    with torch.no_grad():
        times = turns_ms(sides, repeats, ours.device, clock, tell)
    different = "bank, all different"
    return {
        "shape": str(shape),
        "batch": batch,
        "layers": len(ours.targets["temporal"]),
        "slot_bytes": bank.slot_bytes("temporal"),
        "ms": {name: summary(values) for name, values in times.items()},
        "ratios": {
            "different / equal throughput": ratio(times, "bank, one adapter for all", different),
            "mixed / F throughput": ratio(times, "F: one adapter a forward", different),
            "bank / base forward": ratio(times, different, "base, no bank"),
            "bank / base forward, one request": ratio(times, "bank, one request", "base, one request"),
            "idle bank / base forward": ratio(times, "bank, nobody uses it", "base, no bank"),
            "switch / step": ratio(times, "switch: a batch's routing", different),
            "switch / step of one request": ratio(
                times, "switch: one request's routing", "bank, one request"
            ),
            "host to slot / step": ratio(times, "host to slot", different),
            "host to slot / step of one request": ratio(times, "host to slot", "bank, one request"),
        },
    }
