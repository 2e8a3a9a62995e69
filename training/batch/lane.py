"""A lane: holds a foundation and trains pack after pack of what a batch has, until nothing waits. No Ray in it.

    Lane(open_batch(storage, "b1"), open_registry(uri)).run()

Any number of lanes may work on one batch, in any processes. Each claims a concept, packs others of its group with it,
publishes each as it ends and takes the next into its slots. What a lane must know lies in the batch's records; killed
at any moment it costs the steps since the last checkpoints.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from datasets.latents import CachedClip
from infra.errors import UserError
from infra.registry import Registry
from models.foundation import Foundation
from models.load import load_foundation
from training.batch.ahead import Ahead
from training.batch.checkpoints import CheckpointWriter, restore
from training.batch.heartbeat import Heartbeat
from training.batch.plan import DEFAULT_PACK, MOST, capacity_for
from training.batch.prepare import prepare_work
from training.batch.profile import Profile
from training.batch.publishing import publish_work
from training.batch.record import Claim, LeaseLost, Record
from training.batch.sizing import workers_of
from training.batch.state import BatchState
from training.batch.team import Team
from training.batch.watcher import Watcher
from training.batch.work import Work
from training.config import DTYPES
from training.group import GroupKey
from training.loop import bank_slots
from training.pack import Capacity, Ended, Event, Failed, Member, Pack, Stepped

log = logging.getLogger(__name__)

RECENT = 50  # steps whose mean losses are published
LOOK_S = 10.0
ALONE_AFTER = 1  # lost lanes: then a concept trains alone, so that it takes nobody with it


@dataclass
class Held:
    """A concept that this lane trains."""

    claim: Claim
    work: Work
    clips: Sequence[CachedClip] = field(default=(), repr=False)
    recent: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=RECENT))


class Lane:
    """Trains a batch's concepts, in this process.

    Args:
        pack: members of a pack; None takes what `profile` says is best, else 8.
        most: members of a pack whatever `pack` and `profile` say: this lane's share.
        device: None takes CUDA where there is one.
        every_s: seconds between renewals of the claims.
        ahead: whether a thread here prepares the concepts that wait; False where others do (ray_prepare.py).
        workers: takes the concepts that ask for so many; None: takes any, and has those fail that ask for more than this
            process.
        team: the workers, where there are several (team.py): this process leads them.
    """

    def __init__(
        self,
        batch: BatchState,
        registry: Registry,
        *,
        owner: str | None = None,
        pack: int | None = None,
        most: int = MOST,
        profile: Profile | None = None,
        device: str | None = None,
        watcher: Watcher | None = None,
        every_s: float | None = None,
        ahead: bool = True,
        workers: int | None = None,
        team: Team | None = None,
    ) -> None:
        self.batch, self.registry = batch, registry
        self.owner = owner or f"{socket.gethostname()}:{threading.get_native_id()}"
        self.pack, self.profile, self.device = pack, profile, device
        self.most = most
        self.watcher = watcher or Watcher()
        self.batch_id = batch.about()["id"]
        self.ahead, self.workers, self.team = ahead, workers, team
        self.heartbeat = Heartbeat(self._own_state(), every_s)
        self.checkpoints = CheckpointWriter(self._own_state())
        self._encoding = threading.Lock()  # of the VAE and the text encoder, by this thread and the one ahead
        self._loaded: tuple[tuple[str | None, str], Foundation] | None = None
        self._limits: dict[GroupKey, int] = {}  # of packs that did not fit the memory
        self._works: dict[tuple[str, str], Work] = {}
        self._forsaken: list[Claim] = []
        self._stopping = threading.Event()
        self._looked = 0.0

    def _own_state(self) -> BatchState:
        """The batch's, for a thread of its own."""
        return BatchState(self.batch.storage, clock=self.batch.clock, lease_s=self.batch.lease_s)

    def stop(self) -> None:
        """Ask the lane, from a thread or a signal handler, to keep what it has and give it back: it must go."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def run(self) -> None:
        """Train until nothing waits that is free to be taken.

        Raises:
            UserError: the storage is away (503). Called again when it is back, it goes on with what it had, from the last
                checkpoints, unless others took it.
        """
        self._take_back()
        with self.heartbeat, self.checkpoints:
            while not self._stopping.is_set():
                claim = self.batch.claim(self.owner, suits=self._is_ours)
                if claim is None:
                    return
                self.heartbeat.hold(claim)
                self._train_group(claim)

    # ----------------------------------------------------------------- a group
    def _train_group(self, first: Claim) -> None:
        """A pack of the group of this concept, until no more of it wait."""
        work = first.record.parsed_work
        try:
            work.check_lane(self.workers or 1)
            foundation = self._foundation(work)
        except UserError as error:
            self._fail(first, error)
            return
        alone = first.record.lost > ALONE_AFTER
        capacity = self._capacity(work, alone)
        if work.config.zero:  # the pack leaves it in pieces
            self._loaded = None
        held: dict[str, Held] = {}
        try:
            with self._preparing_ahead(work, foundation), self._open(foundation, work, capacity) as pack:
                self._train_pack(pack, first, foundation, held, alone)
        except UserError as error:
            if error.status == 503:
                self._forsake(held)
            raise
        except torch.OutOfMemoryError:
            if self.team is not None:
                raise  # the others are in the midst of the same
            opened = bool(held)
            self._too_large(work.key, capacity, held or {first.name: Held(first, work)}, opened)

    def _train_pack(
        self, pack: Pack, first: Claim, foundation: Foundation, held: dict[str, Held], alone: bool
    ) -> None:
        """From the first member to the last."""
        claim: Claim | None = first
        while True:
            while claim is not None:
                self._admit(pack, claim, foundation, held)
                claim = None if alone else self._next(pack)
            if not pack.members:
                return
            if self._stopping.is_set():
                self._give_back(held, pack)
                return
            events = pack.step()
            ended = self._heard(pack, held)
            for event in events:
                if event.name in held:
                    ended |= self._handle(pack, held, event, foundation)
            # Looking for others costs a listing: done as slots come free, and now and then for those added late.
            look = not alone and (ended or time.monotonic() - self._looked > LOOK_S)
            claim = self._next(pack) if look else None

    def _is_ours(self, record: Record) -> bool:
        return self.workers is None or workers_of(record) == self.workers

    def _open(self, foundation: Foundation, work: Work, capacity: Capacity) -> AbstractContextManager[Pack]:
        if self.team is not None:
            return self.team.pack(foundation, work, capacity)
        return Pack(foundation, work.key, capacity)

    def _preparing_ahead(self, work: Work, foundation: Foundation) -> AbstractContextManager[Any]:
        if not self.ahead or self._limits.get(work.key) == 1:  # memory is short
            return nullcontext()
        dtype = DTYPES[work.config.dtype]
        return Ahead(self._own_state(), self.owner, foundation, dtype, self._encoding)

    def _capacity(self, work: Work, alone: bool) -> Capacity:
        """Slots for a pack of this concept's group, whoever of those who wait comes together in it."""
        if alone:
            return capacity_for([work], 1)
        key = work.key
        best = self.profile.best_pack(key, work.config.batch_size, MOST) if self.profile is not None else None
        size = min(self.pack or best or DEFAULT_PACK, self.most, self._limits.get(key, MOST))
        waiting = [self._work(record) for record in self.batch.records() if not record.ended]
        group = [work, *(other for other in waiting if other.key == key and other.name != work.name)]
        if work.config.method == "full":  # slots as large as the layers: none to spare
            return capacity_for(group, min(size, len(group)))
        late = max(0, size - len(group)) * bank_slots(work.config, work.clips)["spatial"]
        capacity = capacity_for(group, size)
        return Capacity(size, capacity.spatial + min(late, capacity.spatial))  # at most twice what is there

    def _next(self, pack: Pack) -> Claim | None:
        """Another concept of the group for which there is room now, held."""

        def suits(record: Record) -> bool:
            work = self._work(record)
            return (
                record.lost <= ALONE_AFTER
                and work.key == pack.key
                and pack.has_room(bank_slots(work.config, work.clips))
            )

        self._looked = time.monotonic()
        if self._stopping.is_set() or not pack.has_room({"temporal": 1}):
            return None
        claim = self.batch.claim(self.owner, suits=suits)
        if claim is not None:
            self.heartbeat.hold(claim)
        return claim

    def _work(self, record: Record) -> Work:
        known = self._works.get((record.name, record.sha256))
        if known is None:
            known = self._works[record.name, record.sha256] = record.parsed_work
        return known

    def _foundation(self, work: Work) -> Foundation:
        """The foundation, whole (latents are made here), in the group's precision. Raises UserError."""
        wanted = work.foundation, DTYPES[work.config.dtype]
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None  # two do not fit at once
            self.watcher.loading(work.foundation)
            self._loaded = wanted, load_foundation(wanted[0], device=self.device, dtype=wanted[1])
        foundation = self._loaded[1]
        if foundation.fingerprint != work.fingerprint:
            raise UserError(
                f"the foundation here has fingerprint {foundation.fingerprint[:12]}, the plan's {work.fingerprint[:12]}; "
                f"put the same files at {work.foundation} on every node, or plan again."
            )
        return foundation

    def _admit(self, pack: Pack, claim: Claim, foundation: Foundation, held: dict[str, Held]) -> None:
        """Prepare a concept and give it its slots; or have it fail."""
        work, record = claim.record.parsed_work, claim.record
        self.watcher.preparing(work.name)
        one = held[work.name] = Held(claim, work)
        try:
            one.clips = prepare_work(work, foundation, self._encoding)
            state = restore(self.batch.storage, record)
            pack.admit(Member(work.name, work.concept, work.config, one.clips), state)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if isinstance(error, UserError) and error.status == 503:
                raise  # not the concept's fault
            if not pack.sound:
                raise  # nor a worker's that is gone
            del held[work.name]
            self._fail(claim, error)
            return
        self.checkpoints.begin(claim)

    # ----------------------------------------------------------------- a step
    def _heard(self, pack: Pack, held: dict[str, Held]) -> bool:
        """Let go of what another has, or what was cancelled. True when slots came free."""
        self.checkpoints.check()
        self.heartbeat.gone |= self.checkpoints.lost() & held.keys()
        going = [name for name in held if name in self.heartbeat.gone | self.heartbeat.cancelling]
        for name in going:
            one = held.pop(name)
            if name in pack.members:
                pack.leave(name)
            self.checkpoints.drop(name)
            self.heartbeat.drop(name)
            if name not in self.heartbeat.gone:
                self._end(one.claim, lambda one=one: self.batch.cancelled(one.claim))  # type: ignore[misc]
        return bool(going)

    def _handle(self, pack: Pack, held: dict[str, Held], event: Event, foundation: Foundation) -> bool:
        """What a step did to one member. True when its slots came free."""
        one = held[event.name]
        if isinstance(event, Failed):
            del held[event.name]
            self._fail(one.claim, event.error)
            return True
        report = event.report
        one.recent.append((report.spatial_loss, report.temporal_loss, report.seconds))
        self.heartbeat.tell(event.name, step=report.step, loss=report.loss, step_seconds=report.seconds)
        self.watcher.stepped(event.name, report)
        if isinstance(event, Ended):
            self._publish(one, event, foundation)
            del held[event.name]
            return True
        assert isinstance(event, Stepped)
        if report.step % one.work.config.checkpoint_interval == 0:
            self.checkpoints.put(one.claim, pack.state(event.name))
        return False

    def _publish(self, one: Held, event: Ended, foundation: Foundation) -> None:
        """The concept's version, and its end."""
        work, claim, step = one.work, one.claim, event.report.step
        spatial, temporal, seconds = (
            sum(column) / len(one.recent) for column in zip(*one.recent, strict=True)
        )
        loss = spatial + temporal
        try:
            version = publish_work(
                self.registry,
                work,
                f"{self.batch_id}/{work.name}/{claim.record.attempt}",
                one.clips,
                foundation,
                event.tensors,
                steps=step,
                metrics={
                    "loss": loss,
                    "spatial_loss": spatial,
                    "temporal_loss": temporal,
                    "seconds_per_step": seconds,
                },
                before=lambda: self.batch.beat(claim),
            )
        except LeaseLost:
            self._let_go(work.name)
            return
        except UserError as error:
            if error.status == 503:
                raise
            self._fail(claim, error)
            return
        self._end(claim, lambda: self.batch.publish(claim, version.ref, step=step, loss=loss))

    # ---------------------------------------------------------------- an end
    def _fail(self, claim: Claim, error: Exception) -> None:
        if isinstance(error, UserError):
            reason = error.message
        else:
            log.error("%s: %s", claim.name, error, exc_info=error)
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        self._end(claim, lambda: self.batch.fail(claim, reason))

    def _end(self, claim: Claim, end: Callable[[], Record]) -> None:
        """Write a concept's end, unless another has it now; its checkpoints are of no more use."""
        self._let_go(claim.name)
        try:
            record = end()
        except LeaseLost:
            return
        self.batch.forget(claim.name)
        self.watcher.ended(record)

    def _let_go(self, name: str) -> None:
        """Renew its claim no more, and write no more checkpoints of it."""
        self.checkpoints.drop(name)
        self.heartbeat.drop(name)

    def _give_back(self, held: dict[str, Held], pack: Pack | None = None) -> None:
        """For whoever takes them next: with the members' states of now, where the pack's are sound."""
        if pack is not None:
            for name, one in held.items():
                self.checkpoints.put(one.claim, pack.state(name))
        self.checkpoints.flush()
        for name, one in held.items():
            self._let_go(name)
            try:
                self.batch.release(one.claim)
            except LeaseLost:
                continue
        held.clear()

    def _forsake(self, held: dict[str, Held]) -> None:
        """The storage is away: train none of these until it is back."""
        for name, one in held.items():
            self._let_go(name)
            self._forsaken.append(one.claim)

    def _take_back(self) -> None:
        """The storage is back, as the first of these finds: what was forsaken waits again, as if it had been given back."""
        while self._forsaken:
            try:
                self.batch.release(self._forsaken[-1])
            except LeaseLost:
                pass  # another has it
            self._forsaken.pop()

    def _too_large(self, key: GroupKey, capacity: Capacity, held: dict[str, Held], opened: bool) -> None:
        """The device's memory did not suffice: go on with half as many from their checkpoints, or have the one fail.

        Args:
            opened: the pack had its slots; not even these fitted, otherwise.
        """
        if capacity.members == 1:
            (one,) = held.values()
            error = UserError(
                f"concept {one.work.name}: one training step does not fit the device's memory; give gradient_checkpointing, "
                "dtype bf16, or a smaller size or batch_size.",
                status=507,
                code="out_of_memory",
            )
            self._fail(one.claim, error)
            return
        self._limits[key] = max(1, (len(held) if opened else capacity.members) // 2)
        log.warning(
            "%d concepts do not fit the device's memory at once; going on with %d",
            len(held) if opened else capacity.members,
            self._limits[key],
        )
        self._give_back(held)
