"""The concepts that a lane holds, from the claim to their end.

A claimed concept stays in `held` whatever fails, so that it is given back and need not wait for its
lease to expire. It leaves when its end is written, when another lane has it, when it is given back, or
when the storage is unavailable (`abandon`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from datasets.clip_sets.latents import CachedClip
from infra.errors import UserError
from infra.storage.leases import LeaseLost
from training.batch.lane.heartbeat import Heartbeat
from training.batch.state.checkpoints import CheckpointWriter
from training.batch.state.record import Claim, Record
from training.batch.state.state import BatchState
from training.batch.state.work import Work
from training.batch.watch.watcher import Watcher
from training.loop.pack import Pack
from training.loop.report import Recent

log = logging.getLogger(__name__)


@dataclass
class HeldConcept:
    """A concept that a lane trains or is about to train."""

    claim: Claim
    work: Work
    clips: Sequence[CachedClip] = field(default=(), repr=False)
    recent: Recent = field(default_factory=Recent)


class HeldConcepts:
    """The concepts of one lane, by name in `held`."""

    def __init__(
        self, batch: BatchState, heartbeat: Heartbeat, checkpoints: CheckpointWriter, watcher: Watcher
    ) -> None:
        self.batch, self.heartbeat, self.checkpoints, self.watcher = batch, heartbeat, checkpoints, watcher
        self.held: dict[str, HeldConcept] = {}
        self._abandoned: list[Claim] = []

    def take(self, claim: Claim, work: Work) -> None:
        """Hold a claimed concept: renew its claim from now on."""
        self.held[claim.name] = HeldConcept(claim, work)
        self.heartbeat.hold(claim)

    def fail(self, name: str, error: Exception) -> None:
        """End the concept as failed, with this error as the reason."""
        if isinstance(error, UserError):
            reason = error.message
        else:
            log.error("%s: %s", name, error, exc_info=error)
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        self.end(name, lambda claim: self.batch.fail(claim, reason))

    def end(self, name: str, end: Callable[[Claim], Record]) -> None:
        """Write a concept's end, unless another lane has it now, and delete its checkpoints."""
        self._stop_renewing(name)
        try:
            record = end(self.held[name].claim)
        except LeaseLost:
            del self.held[name]
            return
        del self.held[name]
        self.watcher.ended(record)
        self.batch.forget(name)

    def leave(self, name: str) -> None:
        """Let go of a concept that another lane has."""
        self._stop_renewing(name)
        del self.held[name]

    def rest(self, name: str, pack: Pack) -> None:
        """Give back one member of a pack, which was paused, after checkpointing it."""
        one = self.held[name]
        self.checkpoints.put(one.claim, pack.state(name))
        self.checkpoints.flush(name)
        pack.leave(name)
        self._stop_renewing(name)
        with suppress(LeaseLost):
            self.batch.release(one.claim)
        del self.held[name]

    def give_back(self, pack: Pack | None = None) -> None:
        """Give back all concepts for other lanes, after checkpointing the members of `pack`.

        Args:
            pack: None if there is none, or its states are not sound.
        """
        if pack is not None:
            for name, one in self.held.items():
                self.checkpoints.put(one.claim, pack.state(name))
        self.checkpoints.flush()
        for name, one in list(self.held.items()):
            self._stop_renewing(name)
            with suppress(LeaseLost):
                self.batch.release(one.claim)
            del self.held[name]

    def abandon(self) -> None:
        """The storage is unavailable: let go of all concepts until it is back."""
        for name, one in self.held.items():
            self._stop_renewing(name)
            self._abandoned.append(one.claim)
        self.held.clear()

    def release_abandoned(self) -> None:
        """Release the abandoned concepts' claims. Raises Unavailable if the storage still is."""
        while self._abandoned:
            with suppress(LeaseLost):  # another lane has it, or it ended
                self.batch.release(self._abandoned[-1])
            self._abandoned.pop()

    def _stop_renewing(self, name: str) -> None:
        """Stop renewing its claim and writing its checkpoints."""
        self.checkpoints.drop(name)
        self.heartbeat.drop(name)
