"""A run: one concept from its beginning, or its last state, to its end.

with PackOfOne(foundation, Member("orbit", "orbit", config, clips)) as run:
    for report in run.train():
        ...                              # checkpoint, print, stop: the caller's business
    adapters = run.tensors("orbit")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from models.foundation import Foundation
from training.checkpoint import MemberState
from training.engine import Engine
from training.group import group_key
from training.member import Member
from training.optim import SlotAdamW
from training.pack import Capacity, Failed, Pack
from training.report import StepReport
from training.step import DualStep


class PackOfOne(Pack):
    """A pack whose only member is there from its beginning to its end. Takes any engine.

    It has its slots before the engine is made, as DeepSpeed copies the weights that it finds at ZeRO 1 to 3, and keeps them
    when it has ended, so that its last state can be written.

    Args:
        state: where it goes on; None: from its beginning.

    Raises:
        UserError: on entering, for clips that cannot train.
    """

    def __init__(
        self,
        foundation: Foundation,
        member: Member,
        state: MemberState | None = None,
        *,
        make_engine: Callable[[DualStep, SlotAdamW], Engine] = Engine,
    ) -> None:
        key = group_key(foundation.fingerprint, member.config)
        super().__init__(foundation, key, Capacity(1, member.slots()["spatial"]), make_engine=make_engine)
        self.member, self._begin = member, state

    @property
    def steps_done(self) -> int:
        return self._seats[self.member.name].step

    def train(self) -> Iterator[StepReport]:
        """Step until the member has ended. Yields after each step, with the bank in the state of that step.

        Raises:
            UserError: the loss is no longer a number.
        """
        while self.steps_done < self.member.config.steps:
            (event,) = self.step()
            if isinstance(event, Failed):
                raise event.error
            yield event.report

    def _admit_first(self) -> None:
        self.admit(self.member, self._begin)
        self._begin = None

    def _vacate(self, name: str) -> None:
        """It keeps its slots."""
