"""A lane holds a foundation and trains pack after pack of a batch until no concept waits; without Ray.

    Lane(open_batch(storage, "b1"), open_registry(uri)).run()

Any number of lanes may work on one batch, in any processes. Each claims a concept, adds others of its
group to the pack, publishes each when it ends and gives its slots to the next. All state is in the
batch's records: killing a lane costs only the steps since the last checkpoints.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from infra.errors import OutOfMemory, StorageDenied, StorageFull, Unavailable, UserError
from infra.registry import Registry
from infra.storage.leases import LeaseLost
from models.dtypes import DTYPES
from models.foundations.base import Foundation
from models.load import NoSafetensors, load_foundation
from training.adapters import describe
from training.batch.lane.choosing import ALONE_AFTER, Choosing
from training.batch.lane.heartbeat import Heartbeat
from training.batch.lane.held_concepts import HeldConcept, HeldConcepts
from training.batch.lane.team import Team
from training.batch.latents.prepare import prepare_work
from training.batch.latents.prepare_ahead import BackgroundPreparation
from training.batch.manifest.plan import MOST
from training.batch.profile.measuring import Measuring
from training.batch.profile.profile import Profile
from training.batch.state.checkpoints import CheckpointWriter, restore
from training.batch.state.exclusive import exclusive, preparation_task, preparation_tasks
from training.batch.state.record import Claim
from training.batch.state.state import BatchState
from training.batch.state.work import NotForLanes, Work
from training.batch.watch.watcher import Watcher
from training.loop.group import GroupKey
from training.loop.member import Member
from training.loop.pack import Capacity, Ended, Event, Failed, Pack, Stepped
from training.memory import explaining_memory
from training.runs.publish import publish, publish_noise

log = logging.getLogger(__name__)

POLL_S = 10.0
# Errors that are not the concept's: something is unavailable or busy, or a storage denies access or is full.
NOT_THE_CONCEPTS_FAULT = (Unavailable, StorageDenied, StorageFull)


class Lane:
    """Trains a batch's concepts, in this process.

    Args:
        pack: members of a pack; None: the best size by `profile`, else 8.
        most: upper limit of members, whatever `pack` and `profile` say: this lane's share.
        measuring: provides each group's profile, and measures it if needed; None: use `profile`.
        device: None: CUDA if available.
        every_s: seconds between renewals of the claims.
        prepare_ahead: whether a thread here prepares waiting concepts; False if others do (ray_prepare.py).
        workers: takes only concepts that ask for this number of workers; None: takes any concept, and
            fails those that ask for more than one.
        team: the workers, if there are several (team.py): this process leads them.
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
        prepare_ahead: bool = True,
        workers: int | None = None,
        team: Team | None = None,
    ) -> None:
        self.batch, self.registry = batch, registry
        self.owner = owner or f"{socket.gethostname()}:{threading.get_native_id()}"
        self.device, self.watcher = device, watcher or Watcher()
        self.batch_id = batch.about()["id"]
        self.prepare_ahead, self.workers, self.team, self.measuring = prepare_ahead, workers, team, measuring
        self.heartbeat = Heartbeat(self._own_state(), every_s)
        self.checkpoints = CheckpointWriter(self._own_state())
        self.held_concepts = HeldConcepts(batch, self.heartbeat, self.checkpoints, self.watcher)
        self.choosing = Choosing(batch, self.owner, pack=pack, most=most, profile=profile, workers=workers)
        self._tasks = preparation_tasks(batch, self.owner)
        self._encoding = threading.Lock()  # VAE and text encoder are used here and by `BackgroundPreparation`
        self._loaded: tuple[tuple[str | None, str, int, str], Foundation] | None = None
        self._load_seconds = 0.0
        self._stopping = threading.Event()
        self._polled_at = 0.0

    def _own_state(self) -> BatchState:
        """The batch's state, for use in another thread."""
        return BatchState(self.batch.storage, clock=self.batch.clock, lease_s=self.batch.lease_s)

    def stop(self) -> None:
        """Ask the lane, from a thread or signal handler, to give back its concepts and end."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    @property
    def held(self) -> Mapping[str, HeldConcept]:
        """The concepts that the lane holds, by name."""
        return self.held_concepts.held

    def run(self, answered: Callable[[], Any] = lambda: None) -> None:
        """Train until no waiting concept is free to be taken.

        Args:
            answered: called when the storage accepted a write: a later failure is a new outage.

        Raises:
            UserError: the storage is unavailable (Unavailable), full or denies access, or the
                foundation cannot be loaded here. The lane's concepts are queued again from their last
                checkpoints; after Unavailable, the next call of this method does that.
        """
        self.held_concepts.release_abandoned()
        with self.heartbeat, self.checkpoints:
            while not self._stopping.is_set():
                claim = self.choosing.first()
                if claim is None:
                    return
                self.held_concepts.take(claim, self.choosing.work(claim.record))
                answered()
                self._train_group(claim)

    # ----------------------------------------------------------------- a group
    def _train_group(self, first: Claim) -> None:
        """Train this concept's group until none of it waits. If the storage fails, give back what is left."""
        try:
            self._train_first(first)
        except NOT_THE_CONCEPTS_FAULT as error:
            self.held_concepts.abandon()
            if not isinstance(error, Unavailable):  # this ends the lane; records may still be writable
                with suppress(UserError):
                    self.held_concepts.release_abandoned()
            raise

    def _train_first(self, first: Claim) -> None:
        """Train this concept with others of its group, or alone if it has lost lanes."""
        work = first.record.parsed_work
        try:
            work.check_lane(self.workers or 1)
            foundation = self._foundation(work)
        except (NotForLanes, NoSafetensors) as error:  # fails on every node
            self.held_concepts.fail(first.name, error)
            return
        except UserError:  # local to this node or its network: the plan found the model
            self.held_concepts.give_back()  # another lane may have what is missing here
            raise
        alone = first.record.lost > ALONE_AFTER
        if self.measuring is not None and not alone:
            self.watcher.measuring(f"{work.key.bucket} {work.key.forward}")
            self.choosing.profile = self.measuring.profile(
                foundation, work.key, self._load_seconds, self._stopping
            )
        capacity = self.choosing.capacity(work, alone)
        if work.config.zero:  # the pack leaves the foundation sharded
            self._loaded = None
        opened = False
        try:
            with self._preparing_ahead(work, foundation), self._open(foundation, work, capacity) as pack:
                opened = True
                self._train_pack(pack, first, foundation, alone)
        except UserError:
            if not opened:
                self.held_concepts.give_back()  # another worker of the team cannot load the foundation
            raise
        except torch.OutOfMemoryError:
            if self.team is not None:
                raise  # the other workers are in the middle of the same operation
            self._too_large(work.key, capacity, opened)

    def _train_pack(self, pack: Pack, first: Claim, foundation: Foundation, alone: bool) -> None:
        """Train a pack from its first member to its last."""
        claim: Claim | None = first
        while True:
            while claim is not None:
                self._admit(pack, claim, foundation)
                claim = None if alone else self._next(pack)
            if not pack.members:
                return
            if self._stopping.is_set():
                self.held_concepts.give_back(pack)
                return
            events = pack.step()
            ended = self._drop_stopped(pack)
            for event in events:
                if event.name in self.held:
                    ended |= self._handle(pack, event, foundation)
            # Looking for more concepts costs a listing: do it when slots come free, and sometimes for
            # added ones.
            look = not alone and (ended or time.monotonic() - self._polled_at > POLL_S)
            claim = self._next(pack) if look else None

    def _open(self, foundation: Foundation, work: Work, capacity: Capacity) -> AbstractContextManager[Pack]:
        if self.team is not None:
            return self.team.pack(foundation, work, capacity)
        return Pack(foundation, work.key, capacity)

    def _preparing_ahead(self, work: Work, foundation: Foundation) -> AbstractContextManager[Any]:
        if not self.prepare_ahead or self.choosing.limits.get(work.key) == 1:  # 1: memory is short
            return nullcontext()
        dtype = DTYPES[work.config.dtype]
        return BackgroundPreparation(self._own_state(), self.owner, foundation, dtype, self._encoding)

    def _next(self, pack: Pack) -> Claim | None:
        """Claim and hold another concept for this pack; None if there is none."""
        self._polled_at = time.monotonic()
        claim = None if self._stopping.is_set() else self.choosing.next(pack, self.held)
        if claim is not None:
            self.held_concepts.take(claim, self.choosing.work(claim.record))
        return claim

    def _foundation(self, work: Work) -> Foundation:
        """The whole foundation (also needed to encode latents), in the group's precision. Raises UserError.

        At ZeRO 3 its denoiser is on the CPU: the pack puts this worker's shard on the device.
        """
        config = work.config
        wanted = work.foundation, config.dtype, config.zero, config.quantize
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None  # free it first: two may not fit
            self.watcher.loading(work.foundation)
            began = time.monotonic()
            with explaining_memory(*wanted[:3], self.device):
                foundation = load_foundation(
                    work.foundation,
                    device=self.device,
                    **config.loading,
                    denoiser_on_cpu=config.zero == 3,
                )
            self._loaded, self._load_seconds = (wanted, foundation), time.monotonic() - began
        foundation = self._loaded[1]
        if foundation.fingerprint != work.fingerprint:
            raise UserError(
                f"the foundation on this node has fingerprint {foundation.fingerprint[:12]}, but the plan expects "
                f"{work.fingerprint[:12]}; put the same files at {work.foundation} on every node, or plan again."
            )
        return foundation

    def _admit(self, pack: Pack, claim: Claim, foundation: Foundation) -> None:
        """Prepare a concept and assign its slots, or fail it."""
        one, work = self.held[claim.name], self.held[claim.name].work
        self.watcher.preparing(work.name)
        try:
            with exclusive(self._tasks, preparation_task(claim.name, claim.record.sha256), self._stopping):
                one.clips = prepare_work(work, foundation, self._encoding)
            state = restore(self.batch.storage, claim.record)
            pack.admit(Member(work.name, work.concept, work.config, one.clips), state)
        except (torch.OutOfMemoryError, *NOT_THE_CONCEPTS_FAULT):
            raise
        except Exception as error:
            if not pack.sound:
                raise  # a lost worker is not the concept's fault either
            self.held_concepts.fail(work.name, error)
            return
        self.checkpoints.begin(claim)

    # ----------------------------------------------------------------- a step
    def _drop_stopped(self, pack: Pack) -> bool:
        """Let go of concepts that were lost to another lane, cancelled or paused. True if slots came free."""
        self.checkpoints.check()
        self.heartbeat.gone |= self.checkpoints.lost() & self.held.keys()
        going = [name for name in self.held if name in self.heartbeat.gone | self.heartbeat.cancelling]
        for name in going:
            if name in pack.members:
                pack.leave(name)
            if name in self.heartbeat.gone:
                self.held_concepts.leave(name)
            else:
                self.held_concepts.end(name, self.batch.cancelled)
        resting = [name for name in pack.members if name in self.held and name in self.heartbeat.paused]
        for name in resting:
            self.held_concepts.rest(name, pack)
        return bool(going or resting)

    def _handle(self, pack: Pack, event: Event, foundation: Foundation) -> bool:
        """Process what a step did to one member. True if its slots came free."""
        one = self.held[event.name]
        if isinstance(event, Failed):
            self.held_concepts.fail(event.name, event.error)
            return True
        report = event.report
        one.recent.add(report)
        self.heartbeat.tell(event.name, step=report.step, loss=report.loss, step_seconds=report.seconds)
        self.watcher.stepped(event.name, report)
        if isinstance(event, Ended):
            self._publish(one, event, foundation)
            return True
        assert isinstance(event, Stepped)
        if report.step % one.work.config.checkpoint_interval == 0:
            self.checkpoints.put(one.claim, pack.state(event.name))
        return False

    def _publish(self, one: HeldConcept, event: Ended, foundation: Foundation) -> None:
        """Publish the concept's version and end the concept."""
        work, claim, step = one.work, one.claim, event.report.step
        metrics = one.recent.metrics()

        def complete(folder: Path) -> None:
            publish_noise(folder, work.config, foundation, one.clips, work.data)
            (folder / "config.yaml").write_text(work.settings_file())
            self.batch.beat(claim)  # the last chance to find that another lane has the concept

        try:
            version = publish(
                self.registry,
                work.name,
                foundation,
                event.tensors,
                describe(work.config, work.concept, one.clips, steps=step),
                run=f"{self.batch_id}/{work.name}/{claim.record.attempt}",
                metrics=metrics,
                complete=complete,
            )
        except LeaseLost:
            self.held_concepts.leave(work.name)
            return
        except NOT_THE_CONCEPTS_FAULT:
            raise
        except UserError as error:
            self.held_concepts.fail(work.name, error)
            return
        self.held_concepts.end(
            work.name,
            lambda claim: self.batch.publish(
                claim, version.ref, step=step, loss=metrics["loss"], step_seconds=event.report.seconds
            ),
        )

    def _too_large(self, key: GroupKey, capacity: Capacity, opened: bool) -> None:
        """Out of memory: continue with half as many members from their checkpoints; a single member fails.

        Args:
            opened: whether the pack's slots were allocated before memory ran out.
        """
        if capacity.members == 1:
            (name,) = self.held
            error = OutOfMemory(
                f"concept {name}: one training step does not fit the device's memory; use gradient_checkpointing, "
                "dtype bf16, or a smaller size or batch_size."
            )
            self.held_concepts.fail(name, error)
            return
        members = len(self.held) if opened else capacity.members
        self.choosing.limits[key] = max(1, members // 2)
        log.warning(
            "%d concepts do not fit the device's memory together; continuing with %d at a time",
            members,
            self.choosing.limits[key],
        )
        self.held_concepts.give_back()
