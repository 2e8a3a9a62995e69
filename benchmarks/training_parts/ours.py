"""Our sides: a pack of concepts, and one concept alone (baseline ii if it runs in its own process)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from benchmarks.training_parts.tasks import Task
from models.foundations.base import Foundation
from training.loop.group import group_key
from training.loop.member import Member
from training.loop.pack import Capacity, Ended, Failed, Pack
from training.loop.pack_of_one import PackOfOne
from training.loop.report import StepReport

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


class Alone:
    """One concept as a separate run or process trains it: a pack of one, without a lane."""

    def __init__(self, foundation: Foundation, task: Task) -> None:
        self._exit = ExitStack()
        member = Member(task.concept, task.concept, task.config, task.clips)
        self.pack = self._exit.enter_context(PackOfOne(foundation, member))
        self._reports: Iterator[StepReport] = self.pack.train()

    def step(self, _number: int) -> Losses:
        """Run one step."""
        report = next(self._reports)
        return [(report.spatial_loss, report.temporal_loss)]

    def close(self) -> None:
        self._exit.close()


def train_all(foundation: Foundation, tasks: Sequence[Task], pack: int) -> Iterator[Ended]:
    """Train all concepts, `pack` at a time, like a lane without batch state: the next concept takes the first free slot."""
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
