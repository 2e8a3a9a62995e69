"""Our sides: a pack of concepts, and the bare loop over one concept (baseline ii if in a separate process)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from benchmarks.training_parts.tasks import Task
from models.bank import AdapterBank
from models.foundation import Foundation
from training.engine import PlainEngine, make_optimizer
from training.group import group_key
from training.loop import StepReport, bank_options, train
from training.pack import Capacity, Ended, Failed, Member, Pack
from training.step import DualStep

Losses = list[tuple[float, float]]  # (L_s, L_t) of each concept


class Packed:
    """Several concepts in one forward, on a foundation that it uses exclusively."""

    def __init__(self, foundation: Foundation, tasks: Sequence[Task]) -> None:
        key = group_key(foundation.fingerprint, tasks[0].config)
        spatial = sum(len(task.clips) for task in tasks)
        self._exit = ExitStack()
        self.pack = self._exit.enter_context(Pack(foundation, key, Capacity(len(tasks), spatial)))
        for task in tasks:
            self.pack.admit(Member(task.concept, task.concept, task.config, task.clips))

    def step(self, _number: int) -> Losses:
        """Run one step of every concept."""
        losses = []
        for event in self.pack.step():
            if isinstance(event, Failed):
                raise event.error
            losses.append((event.report.spatial_loss, event.report.temporal_loss))
        return losses

    def close(self) -> None:
        self._exit.close()


class Loop:
    """The bare loop over one concept, without pack, batch state or lane."""

    def __init__(self, foundation: Foundation, task: Task) -> None:
        self._exit = ExitStack()
        options = bank_options(task.config, len(task.clips))
        self.bank: AdapterBank = self._exit.enter_context(foundation.passing_bank(**options))
        self._exit.enter_context(foundation.gradient_checkpointing(task.config.gradient_checkpointing))
        optimizer = make_optimizer(self.bank, task.config, len(task.clips))
        engine = PlainEngine(DualStep(foundation, task.config), optimizer)
        self._reports: Iterator[StepReport] = train(engine, task.concept, task.clips)

    def step(self, _number: int) -> Losses:
        """Run one step."""
        report = next(self._reports)
        return [(report.spatial_loss, report.temporal_loss)]

    def close(self) -> None:
        self._exit.close()


def train_all(foundation: Foundation, tasks: Sequence[Task], pack: int) -> Iterator[Ended]:
    """Train every concept to its end, `pack` at a time; the next concept takes a free slot. A lane without batch state."""
    key = group_key(foundation.fingerprint, tasks[0].config)
    members = min(pack, len(tasks))
    most = max(len(task.clips) for task in tasks)
    waiting = list(reversed(tasks))
    with Pack(foundation, key, Capacity(members, members * most)) as running:
        while waiting or running.members:
            while waiting and len(running.members) < members:
                task = waiting.pop()
                running.admit(Member(task.concept, task.concept, task.config, task.clips))
            for event in running.step():
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Ended):
                    yield event
