"""Part `step`: compares the sides' losses on the same draws, then times their steps in turns, in this process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from benchmarks.training_parts.ours import Alone, Losses, Packed
from benchmarks.training_parts.peft_loop import PeftLoop
from benchmarks.training_parts.published import Published
from benchmarks.training_parts.tasks import tasks
from models.foundations.base import Foundation
from training.loop.member import bank_options

PUBLISHED, PUBLISHED_WHOLE = "(i) published", "(i) published, no checkpointing"
PEFT, LOOP = "(iv) PEFT adapters in turn", "(ii) our loop"
Load = Callable[[], Foundation]


def pack_name(size: int) -> str:
    return f"ours, pack of {size}"


class Side(Protocol):
    """A side of the comparison, which can run a step of one or more concepts."""

    def step(self, number: int) -> Losses:
        """Run step `number` (0-based). Returns the losses of each concept."""


@dataclass(frozen=True)
class Timing:
    """Seconds of the steps of a number of concepts."""

    concepts: int
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median seconds of a step, per concept."""
        return statistics.median(self.seconds) / self.concepts

    def asdict(self) -> dict[str, Any]:
        per = [second / self.concepts for second in self.seconds]
        return {"concepts": self.concepts, "median": self.median, "low": min(per), "high": max(per)}


def make_sides(load: Load, packs: Sequence[int], **settings: Any) -> tuple[dict[str, Side], dict[str, int]]:
    """Every side with a separate foundation, all with our initial values, and how many concepts each has."""
    sides: dict[str, Side] = {}
    first = load()
    all_tasks = tasks(first, max(packs), **settings)
    task = all_tasks[0]
    with first.temporary_bank(**bank_options(task.config, len(task.clips))) as bank:
        for name, checkpointing in ((PUBLISHED, True), (PUBLISHED_WHOLE, False)):
            sides[name] = published = Published(load(), task, checkpointing=checkpointing)
            published.begin_as(bank)
        sides[PEFT] = adapters = PeftLoop(load(), task)
        adapters.begin_as(bank)
    sides[LOOP] = Alone(load(), task)
    counts = dict.fromkeys(sides, 1)
    for size in packs:
        sides[pack_name(size)] = Packed(load(), all_tasks[:size])
        counts[pack_name(size)] = size
    return sides, counts


def parity(
    sides: Mapping[str, Side], steps: int, say: Callable[[str], None] = lambda _: None
) -> dict[str, float]:
    """The largest relative difference of the first concept's losses from the published side's, over these steps.

    Dropout must be off, because each side draws its masks differently.
    """
    differences = dict.fromkeys(sides, 0.0)
    for number in range(steps):
        say(f"step: losses, {number + 1} of {steps}")
        losses = {name: side.step(number)[0] for name, side in sides.items()}
        for name, own in losses.items():
            for mine, theirs in zip(own, losses[PUBLISHED], strict=True):
                differences[name] = max(differences[name], abs(mine - theirs) / abs(theirs))
    return differences


def timings(
    sides: Mapping[str, Side],
    counts: Mapping[str, int],
    repeats: int,
    *,
    warm_up: int = 2,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, Timing]:
    """Seconds of steps. The sides take turns, so that load on the machine affects all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warm_up + repeats):
        for name, side in sides.items():
            _wait()
            began = time.perf_counter()
            side.step(number)
            _wait()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - began)
        if on_round:
            on_round(number + 1, warm_up + repeats)
    return {name: Timing(counts[name], tuple(values)) for name, values in seconds.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
