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
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch

from infra.errors import OutOfMemory, StorageDenied, StorageFull, Unavailable, UserError
from infra.leases import LeaseLost
from infra.registry import Registry
from models.dtypes import DTYPES
from models.foundation import Foundation
from models.load import NoSafetensors, load_foundation
from training.batch.ahead import Ahead
from training.batch.checkpoints import CheckpointWriter, restore
from training.batch.choosing import ALONE_AFTER, Choosing
from training.batch.heartbeat import Heartbeat
from training.batch.holding import Held, Holding
from training.batch.in_turn import in_turn, preparing_turns, turn_of
from training.batch.measuring import Measuring
from training.batch.plan import MOST
from training.batch.prepare import prepare_work
from training.batch.profile import Profile
from training.batch.publishing import publish_work
from training.batch.record import Claim
from training.batch.state import BatchState
from training.batch.team import Team
from training.batch.watcher import Watcher
from training.batch.work import NotForLanes, Work
from training.group import GroupKey
from training.memory import explaining_memory
from training.pack import Capacity, Ended, Event, Failed, Member, Pack, Stepped

log = logging.getLogger(__name__)

LOOK_S = 10.0
# What a concept is not to blame for: something that is needed is away or busy, or a storage denies access or is full.
NO_CONCEPTS_FAULT = (Unavailable, StorageDenied, StorageFull)


class Lane:
    """Trains a batch's concepts, in this process.

    Args:
        pack: members of a pack; None takes what `profile` says is best, else 8.
        most: members of a pack whatever `pack` and `profile` say: this lane's share.
        measuring: gives the profile of each group as it comes, measured here where it must be; None: there is `profile`.
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
        measuring: Measuring | None = None,
        device: str | None = None,
        watcher: Watcher | None = None,
        every_s: float | None = None,
        ahead: bool = True,
        workers: int | None = None,
        team: Team | None = None,
    ) -> None:
        self.batch, self.registry = batch, registry
        self.owner = owner or f"{socket.gethostname()}:{threading.get_native_id()}"
        self.device, self.watcher = device, watcher or Watcher()
        self.batch_id = batch.about()["id"]
        self.ahead, self.workers, self.team, self.measuring = ahead, workers, team, measuring
        self.heartbeat = Heartbeat(self._own_state(), every_s)
        self.checkpoints = CheckpointWriter(self._own_state())
        self.holding = Holding(batch, self.heartbeat, self.checkpoints, self.watcher)
        self.choosing = Choosing(batch, self.owner, pack=pack, most=most, profile=profile, workers=workers)
        self._turns = preparing_turns(batch, self.owner)
        self._encoding = threading.Lock()  # of the VAE and the text encoder, by this thread and the one ahead
        self._loaded: tuple[tuple[str | None, str, int], Foundation] | None = None
        self._load_seconds = 0.0
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

    @property
    def held(self) -> Mapping[str, Held]:
        """The concepts it has, by name."""
        return self.holding.held

    def run(self, answered: Callable[[], Any] = lambda: None) -> None:
        """Train until nothing waits that is free to be taken.

        Args:
            answered: called when the storage has taken a write: what it fails at from then on is another matter.

        Raises:
            UserError: the storage is away (Unavailable), full or closed to this process, or the foundation cannot be had
                here. What the lane had waits again, from its last checkpoints: after Unavailable as soon as this is called
                again.
        """
        self.holding.take_back()
        with self.heartbeat, self.checkpoints:
            while not self._stopping.is_set():
                claim = self.choosing.first()
                if claim is None:
                    return
                self.holding.take(claim, self.choosing.work(claim.record))
                answered()
                self._train_group(claim)

    # ----------------------------------------------------------------- a group
    def _train_group(self, first: Claim) -> None:
        """A pack of the group of this concept, until no more of it wait. What is left when the storage fails is given back."""
        try:
            self._train_first(first)
        except NO_CONCEPTS_FAULT as error:
            self.holding.forsake()
            if not isinstance(error, Unavailable):  # this ends the lane; perhaps records can still be written
                with suppress(UserError):
                    self.holding.take_back()
            raise

    def _train_first(self, first: Claim) -> None:
        """This concept and those that come to it; it alone if it has lost lanes, or is no work for a lane at all."""
        work = first.record.parsed_work
        try:
            work.check_lane(self.workers or 1)
            foundation = self._foundation(work)
        except (NotForLanes, NoSafetensors) as error:  # so on every node
            self.holding.fail(first.name, error)
            return
        except UserError:  # this node's fault, or the network's: the plan found the model
            self.holding.give_back()  # another lane may have what lacks here
            raise
        alone = first.record.lost > ALONE_AFTER
        if self.measuring is not None and not alone:
            self.watcher.measuring(f"{work.key.bucket} {work.key.forward}")
            self.choosing.profile = self.measuring.profile(
                foundation, work.key, self._load_seconds, self._stopping
            )
        capacity = self.choosing.capacity(work, alone)
        if work.config.zero:  # the pack leaves it in pieces
            self._loaded = None
        opened = False
        try:
            with self._preparing_ahead(work, foundation), self._open(foundation, work, capacity) as pack:
                opened = True
                self._train_pack(pack, first, foundation, alone)
        except UserError:
            if not opened:
                self.holding.give_back()  # the foundation cannot be had where another worker of the team is
            raise
        except torch.OutOfMemoryError:
            if self.team is not None:
                raise  # the others are in the midst of the same
            self._too_large(work.key, capacity, opened)

    def _train_pack(self, pack: Pack, first: Claim, foundation: Foundation, alone: bool) -> None:
        """From the first member to the last."""
        claim: Claim | None = first
        while True:
            while claim is not None:
                self._admit(pack, claim, foundation)
                claim = None if alone else self._next(pack)
            if not pack.members:
                return
            if self._stopping.is_set():
                self.holding.give_back(pack)
                return
            events = pack.step()
            ended = self._heard(pack)
            for event in events:
                if event.name in self.held:
                    ended |= self._handle(pack, event, foundation)
            # Looking for others costs a listing: done as slots come free, and now and then for those added late.
            look = not alone and (ended or time.monotonic() - self._looked > LOOK_S)
            claim = self._next(pack) if look else None

    def _open(self, foundation: Foundation, work: Work, capacity: Capacity) -> AbstractContextManager[Pack]:
        if self.team is not None:
            return self.team.pack(foundation, work, capacity)
        return Pack(foundation, work.key, capacity)

    def _preparing_ahead(self, work: Work, foundation: Foundation) -> AbstractContextManager[Any]:
        if not self.ahead or self.choosing.limits.get(work.key) == 1:  # memory is short
            return nullcontext()
        dtype = DTYPES[work.config.dtype]
        return Ahead(self._own_state(), self.owner, foundation, dtype, self._encoding)

    def _next(self, pack: Pack) -> Claim | None:
        """Another concept for this pack, held."""
        self._looked = time.monotonic()
        claim = None if self._stopping.is_set() else self.choosing.next(pack, self.held)
        if claim is not None:
            self.holding.take(claim, self.choosing.work(claim.record))
        return claim

    def _foundation(self, work: Work) -> Foundation:
        """The foundation, whole (latents are made here), in the group's precision. Raises UserError.

        At ZeRO 3 its denoiser lies on the CPU: the pack puts this worker's share of it on the device.
        """
        config = work.config
        wanted = work.foundation, config.dtype, config.zero
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None  # two do not fit at once
            self.watcher.loading(work.foundation)
            began = time.monotonic()
            with explaining_memory(*wanted, self.device):
                foundation = load_foundation(
                    work.foundation,
                    device=self.device,
                    dtype=DTYPES[config.dtype],
                    denoiser_on_cpu=config.zero == 3,
                )
            self._loaded, self._load_seconds = (wanted, foundation), time.monotonic() - began
        foundation = self._loaded[1]
        if foundation.fingerprint != work.fingerprint:
            raise UserError(
                f"the foundation here has fingerprint {foundation.fingerprint[:12]}, the plan's {work.fingerprint[:12]}; "
                f"put the same files at {work.foundation} on every node, or plan again."
            )
        return foundation

    def _admit(self, pack: Pack, claim: Claim, foundation: Foundation) -> None:
        """Prepare a concept and give it its slots; or have it fail."""
        one, work = self.held[claim.name], self.held[claim.name].work
        self.watcher.preparing(work.name)
        try:
            with in_turn(self._turns, turn_of(claim.name, claim.record.sha256), self._stopping):
                one.clips = prepare_work(work, foundation, self._encoding)
            state = restore(self.batch.storage, claim.record)
            pack.admit(Member(work.name, work.concept, work.config, one.clips), state)
        except (torch.OutOfMemoryError, *NO_CONCEPTS_FAULT):
            raise
        except Exception as error:
            if not pack.sound:
                raise  # nor is a worker's that is gone
            self.holding.fail(work.name, error)
            return
        self.checkpoints.begin(claim)

    # ----------------------------------------------------------------- a step
    def _heard(self, pack: Pack) -> bool:
        """Let go of what another has, or what was cancelled. True when slots came free."""
        self.checkpoints.check()
        self.heartbeat.gone |= self.checkpoints.lost() & self.held.keys()
        going = [name for name in self.held if name in self.heartbeat.gone | self.heartbeat.cancelling]
        for name in going:
            if name in pack.members:
                pack.leave(name)
            if name in self.heartbeat.gone:
                self.holding.leave(name)
            else:
                self.holding.end(name, self.batch.cancelled)
        return bool(going)

    def _handle(self, pack: Pack, event: Event, foundation: Foundation) -> bool:
        """What a step did to one member. True when its slots came free."""
        one = self.held[event.name]
        if isinstance(event, Failed):
            self.holding.fail(event.name, event.error)
            return True
        report = event.report
        one.recent.append((report.spatial_loss, report.temporal_loss, report.seconds))
        self.heartbeat.tell(event.name, step=report.step, loss=report.loss, step_seconds=report.seconds)
        self.watcher.stepped(event.name, report)
        if isinstance(event, Ended):
            self._publish(one, event, foundation)
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
            self.holding.leave(work.name)
            return
        except NO_CONCEPTS_FAULT:
            raise
        except UserError as error:
            self.holding.fail(work.name, error)
            return
        self.holding.end(
            work.name, lambda claim: self.batch.publish(claim, version.ref, step=step, loss=loss)
        )

    def _too_large(self, key: GroupKey, capacity: Capacity, opened: bool) -> None:
        """The device's memory did not suffice: go on with half as many from their checkpoints, or have the one fail.

        Args:
            opened: the pack had its slots; not even these fitted, otherwise.
        """
        if capacity.members == 1:
            (name,) = self.held
            error = OutOfMemory(
                f"concept {name}: one training step does not fit the device's memory; give gradient_checkpointing, "
                "dtype bf16, or a smaller size or batch_size."
            )
            self.holding.fail(name, error)
            return
        members = len(self.held) if opened else capacity.members
        self.choosing.limits[key] = max(1, members // 2)
        log.warning(
            "%d concepts do not fit the device's memory at once; going on with %d",
            members,
            self.choosing.limits[key],
        )
        self.holding.give_back()
