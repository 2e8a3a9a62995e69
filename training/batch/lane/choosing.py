"""Decides which concepts a lane takes, and how many at once."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from training.batch.manifest.plan import DEFAULT_PACK, MOST, capacity_for
from training.batch.profile.profile import Profile
from training.batch.state.record import Claim, Record, is_free, workers_of
from training.batch.state.state import BatchState
from training.batch.state.work import Work
from training.loop.group import GroupKey
from training.loop.member import bank_slots
from training.loop.pack import Capacity, Pack

ALONE_AFTER = 1  # a concept that lost more lanes than this trains alone, so that it harms no other concept


class Choosing:
    """Chooses concepts of a batch for one lane. The arguments are those of `Lane`.

    `limits` is the largest pack size of each group that ran out of memory.
    """

    def __init__(
        self,
        batch: BatchState,
        owner: str,
        *,
        pack: int | None,
        most: int,
        profile: Profile | None,
        workers: int | None,
    ) -> None:
        self.batch, self.owner, self.workers = batch, owner, workers
        self.pack, self.most, self.profile = pack, most, profile
        self.limits: dict[GroupKey, int] = {}
        self._works: dict[str, tuple[dict[str, Any], Work]] = {}  # name -> (as recorded, parsed)

    def first(self) -> Claim | None:
        """Claim the next concept of the batch, of any group."""
        return self.batch.claim(self.owner, suits=self._is_ours)

    def next(self, pack: Pack, held: Container[str]) -> Claim | None:
        """Claim another concept of a pack's group for which there is room now.

        It skips concepts of lower priority than a waiting one that cannot join this pack, which would
        otherwise wait for the whole group.

        Args:
            held: names of the concepts that the lane holds; their leases may have expired while the
                machine slept.
        """
        if not pack.has_room(bank_slots(pack.key.config(), 1)):  # no concept of the group needs less
            return None
        now, least = self.batch.clock(), float("-inf")

        def suits(record: Record) -> bool:  # called in the order of priority
            nonlocal least
            if record.name in held or record.priority < least:
                return False
            work = self.work(record)
            fits = (
                record.lost <= ALONE_AFTER
                and work.key == pack.key
                and pack.has_room(bank_slots(work.config, work.clips))
            )
            if not fits and self._is_ours(record) and is_free(record, now):
                least = record.priority
            return fits

        return self.batch.claim(self.owner, suits=suits)

    def capacity(self, work: Work, alone: bool) -> Capacity:
        """Slots for a pack of this concept's group that suffice for any combination of waiting concepts."""
        if alone:
            return capacity_for([work], 1)
        key = work.key
        best = self.profile.best_pack(key, work.config.batch_size, MOST) if self.profile is not None else None
        size = min(self.pack or best or DEFAULT_PACK, self.most, self.limits.get(key, MOST))
        waiting = [self.work(record) for record in self.batch.records() if not record.ended]
        group = [work, *(other for other in waiting if other.key == key and other.name != work.name)]
        if work.config.method == "full":  # slots are as large as the layers: allocate no spare ones
            return capacity_for(group, min(size, len(group)))
        late = max(0, size - len(group)) * bank_slots(work.config, work.clips)["spatial"]
        capacity = capacity_for(group, size)
        return Capacity(size, capacity.spatial + min(late, capacity.spatial))  # at most twice the need

    def work(self, record: Record) -> Work:
        """A record's work, parsed once."""
        known, work = self._works.get(record.name, (None, None))
        if work is None or known != record.work:  # compares all settings, also those outside the hash
            work = record.parsed_work
            self._works[record.name] = record.work, work
        return work

    def _is_ours(self, record: Record) -> bool:
        return self.workers is None or workers_of(record) == self.workers
