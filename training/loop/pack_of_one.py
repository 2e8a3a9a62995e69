"""A run: trains one concept from its first step, or from a saved state, to its last step.

    with PackOfOne(foundation, Member("orbit", "orbit", config, clips)) as run:
        for report in run.train():
            ...                              # the caller checkpoints, prints or stops here
        adapters = run.tensors("orbit")

Used by in-process training (training/runs/local.py) and by the workers of Ray Train (training/ray/train.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from models.foundations.base import Foundation
from training.loop.checkpoint import MemberState
from training.loop.engine import Engine
from training.loop.group import group_key
from training.loop.member import Member
from training.loop.optim import SlotAdamW
from training.loop.pack import Capacity, Failed, Pack
from training.loop.report import StepReport
from training.loop.step import DualStep


class PackOfOne(Pack):
    """A pack with a single member, which stays for the pack's whole life. Works with every engine.

    The member gets its slots before the engine is created, because at ZeRO 1 to 3 DeepSpeed copies the weights at
    that moment. It keeps its slots after its last step, so that its final state can be saved.

    Args:
        state: the state to continue from; None starts at step 0.

    Raises:
        UserError: on entering, if the clips cannot be trained on.
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
        return self._active[self.member.name].step

    def train(self) -> Iterator[StepReport]:
        """Train to the last step. Yields after each step, while the bank holds the state of that step.

        Raises:
            UserError: the loss is not finite.
        """
        while self.steps_done < self.member.config.steps:
            (event,) = self.step()
            if isinstance(event, Failed):
                raise event.error
            yield event.report

    def _admit_first(self) -> None:
        self.admit(self.member, self._begin)
        self._begin = None

    def _free_slots(self, name: str) -> None:
        """Does nothing: the member keeps its slots."""
