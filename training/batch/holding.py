"""What a lane holds: concepts it claimed, from the claim to one of their ends, and what of that is written.

Whatever fails between the two, a concept is in `held`, so that it is given back and not left to its lease. It leaves when
its end is written, when another has it, when it is given back, or when the storage is away and it is forsaken.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from datasets.latents import CachedClip
from infra.errors import UserError
from infra.leases import LeaseLost
from training.batch.checkpoints import CheckpointWriter
from training.batch.heartbeat import Heartbeat
from training.batch.record import Claim, Record
from training.batch.state import BatchState
from training.batch.watcher import Watcher
from training.batch.work import Work
from training.pack import Pack

log = logging.getLogger(__name__)

RECENT = 50  # steps whose mean losses are published


@dataclass
class Held:
    """A concept that a lane trains, or is about to."""

    claim: Claim
    work: Work
    clips: Sequence[CachedClip] = field(default=(), repr=False)
    recent: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=RECENT))


class Holding:
    """The concepts of one lane, by name in `held`."""

    def __init__(
        self, batch: BatchState, heartbeat: Heartbeat, checkpoints: CheckpointWriter, watcher: Watcher
    ) -> None:
        self.batch, self.heartbeat, self.checkpoints, self.watcher = batch, heartbeat, checkpoints, watcher
        self.held: dict[str, Held] = {}
        self._forsaken: list[Claim] = []

    def take(self, claim: Claim, work: Work) -> None:
        """A concept was claimed, to do this: renew it from now on."""
        self.held[claim.name] = Held(claim, work)
        self.heartbeat.hold(claim)

    def fail(self, name: str, error: Exception) -> None:
        """The concept ends with this as its reason."""
        if isinstance(error, UserError):
            reason = error.message
        else:
            log.error("%s: %s", name, error, exc_info=error)
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        self.end(name, lambda claim: self.batch.fail(claim, reason))

    def end(self, name: str, end: Callable[[Claim], Record]) -> None:
        """Write a concept's end, unless another has it now; its checkpoints are of no more use."""
        self._still(name)
        try:
            record = end(self.held[name].claim)
        except LeaseLost:
            del self.held[name]
            return
        del self.held[name]
        self.watcher.ended(record)
        self.batch.forget(name)

    def leave(self, name: str) -> None:
        """Another has it."""
        self._still(name)
        del self.held[name]

    def give_back(self, pack: Pack | None = None) -> None:
        """For whoever takes them next: with the members' states of now, where the pack's are sound."""
        if pack is not None:
            for name, one in self.held.items():
                self.checkpoints.put(one.claim, pack.state(name))
        self.checkpoints.flush()
        for name, one in list(self.held.items()):
            self._still(name)
            with suppress(LeaseLost):
                self.batch.release(one.claim)
            del self.held[name]

    def forsake(self) -> None:
        """The storage is away: train none of these until it is back."""
        for name, one in self.held.items():
            self._still(name)
            self._forsaken.append(one.claim)
        self.held.clear()

    def take_back(self) -> None:
        """The storage is back, as the first of these finds: what was forsaken waits again, as if it had been given back."""
        while self._forsaken:
            with suppress(LeaseLost):  # another has it, or it ended
                self.batch.release(self._forsaken[-1])
            self._forsaken.pop()

    def _still(self, name: str) -> None:
        """Renew its claim no more, and write no more checkpoints of it."""
        self.checkpoints.drop(name)
        self.heartbeat.drop(name)
