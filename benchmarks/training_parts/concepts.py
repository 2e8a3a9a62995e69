"""Parts `memory` and `concepts`: each side in a separate process, including start-up."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.training_parts.process import Job, spawn
from benchmarks.training_parts.steps import LOOP, PEFT, PUBLISHED, PUBLISHED_WHOLE, pack_name
from benchmarks.training_parts.tasks import concept_name

Say = Callable[[str], None]


@dataclass(frozen=True)
class Rate:
    """Time for a number of concepts, including start-up, and how many of them were measured."""

    wall: float  # seconds for all
    per_hour: float
    start: float  # seconds until a process's first step
    per_step: float  # seconds per step and concept
    measured: int  # concepts actually trained
    long: float  # concepts per hour for a longer training, computed from start and per_step


def memory(template: Job, packs: Sequence[int], say: Say) -> dict[str, dict[str, float]]:
    """Bytes of each side's process: peak, and the part that training added to a process that was ready to train."""
    sides = {
        PUBLISHED: replace(template, side="published"),
        PUBLISHED_WHOLE: replace(template, side="published-whole"),
        PEFT: replace(template, side="peft"),
        LOOP: replace(template, side="loop"),
    }
    sides |= {
        pack_name(size): replace(template, side="pack", pack=size, concepts=names(size)) for size in packs
    }
    saving = {**template.settings, "gradient_checkpointing": True}
    sides[f"{LOOP}, checkpointing"] = replace(template, side="loop", settings=saving)
    found = {}
    for name, job in sides.items():
        say(f"memory: {name}")
        (used,) = spawn([job])
        peak = used["peak_bytes"]
        found[name] = {"peak": peak, "training": peak - used["before_bytes"]}
    return found


def rates(
    template: Job, concepts: int, sample: int, packs: Sequence[int], steps: int, long: int, say: Say
) -> dict[str, Rate]:
    """Concepts per hour of every side, for `concepts` concepts on this device.

    The largest pack trains all. Sides with one process per concept train `sample` of them, as does the PEFT loop in one
    process; smaller packs train one full pack. The time of the rest is extrapolated.
    """

    def one(number: int, side: str, **own: Any) -> Job:
        return replace(template, side=side, concepts=[concept_name(number)], **own)

    def rate(wall: float, start: float, per_step: float, measured: int, starts: float) -> Rate:
        """The rate, where all concepts together need `starts` start-ups."""
        longer = starts * start + concepts * long * per_step
        return Rate(wall, 3600 * concepts / wall, start, per_step, measured, 3600 * concepts / longer)

    found: dict[str, Rate] = {}
    for name, side in ((PUBLISHED, "published"), (PUBLISHED_WHOLE, "published-whole"), (LOOP, "loop")):
        ran = []
        for number in range(sample):
            say(f"concepts: {name}, {number + 1} of {sample}")
            ran += spawn([one(number, side)])
        wall = statistics.mean(t["wall"] for t in ran)
        train = statistics.mean(t["train"] for t in ran)
        found[f"{name}, a process each"] = rate(
            wall * concepts, wall - train, train / steps, sample, starts=concepts
        )

    at_once = os.cpu_count() or 1
    at_once = max(2, min(at_once, 8))
    threads = max(1, (os.cpu_count() or 1) // at_once)
    say(f"concepts: (iii) {at_once} processes at once")
    ran = spawn([one(number, "loop", threads=threads) for number in range(at_once)])
    wall = ran[0]["wall"]
    train = max(t["train"] for t in ran)
    rounds = -(-concepts // at_once)
    found[f"(iii) our loop, {at_once} processes at once"] = rate(
        wall * rounds, (wall - train) / at_once, train / steps / at_once, at_once, starts=concepts
    )

    say(f"concepts: {PEFT}, {sample} concepts")
    (t,) = spawn([replace(template, side="peft", concepts=names(sample))])
    start, per_step = t["wall"] - t["train"], t["train"] / sample / steps
    found[PEFT] = rate(start + concepts * steps * per_step, start, per_step, sample, starts=1)

    for size in packs:
        count = concepts if size == max(packs) else size
        say(f"concepts: {pack_name(size)}, {count} concepts")
        (t,) = spawn([replace(template, side="pack", pack=size, concepts=names(count))])
        start, per_step = t["wall"] - t["train"], t["train"] / count / steps
        found[pack_name(size)] = rate(start + concepts * steps * per_step, start, per_step, count, starts=1)
    return found


def names(count: int) -> list[str]:
    return [concept_name(number) for number in range(count)]
