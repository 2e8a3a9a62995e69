"""Which concepts a lane takes, and how many at once."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from training.batch.plan import DEFAULT_PACK, MOST, capacity_for
from training.batch.profile import Profile
from training.batch.record import Claim, Record
from training.batch.sizing import is_free, workers_of
from training.batch.state import BatchState
from training.batch.work import Work
from training.group import GroupKey
from training.member import bank_slots
from training.pack import Capacity, Pack

ALONE_AFTER = 1  # lost lanes: then a concept trains alone, so that it takes nobody with it


class Choosing:
    """What one lane takes of a batch; the arguments are those of `Lane`.

    `limits`: of packs that did not fit the memory, by group.
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
        """The concept that is next in the batch, of whatever group."""
        return self.batch.claim(self.owner, suits=self._is_ours)

    def next(self, pack: Pack, held: Container[str]) -> Claim | None:
        """Another concept of a pack's group for which there is room now.

        None of lower priority than one that waits and cannot come into this pack: that one would wait for the whole group.

        Args:
            held: names of the concepts that the lane has; their leases may have run out while the machine slept.
        """
        if not pack.has_room({"temporal": 1}):
            return None
        now, least = self.batch.clock(), float("-inf")

        def suits(record: Record) -> bool:  # asked in the order of priority
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
        """Slots for a pack of this concept's group, whoever of those who wait comes together in it."""
        if alone:
            return capacity_for([work], 1)
        key = work.key
        best = self.profile.best_pack(key, work.config.batch_size, MOST) if self.profile is not None else None
        size = min(self.pack or best or DEFAULT_PACK, self.most, self.limits.get(key, MOST))
        waiting = [self.work(record) for record in self.batch.records() if not record.ended]
        group = [work, *(other for other in waiting if other.key == key and other.name != work.name)]
        if work.config.method == "full":  # slots as large as the layers: none to spare
            return capacity_for(group, min(size, len(group)))
        late = max(0, size - len(group)) * bank_slots(work.config, work.clips)["spatial"]
        capacity = capacity_for(group, size)
        return Capacity(size, capacity.spatial + min(late, capacity.spatial))  # at most twice what is there

    def work(self, record: Record) -> Work:
        """What a record says is to be done; parsed once."""
        told, work = self._works.get(record.name, (None, None))
        if work is None or told != record.work:  # also settings that are no part of its hash
            work = record.parsed_work
            self._works[record.name] = record.work, work
        return work

    def _is_ours(self, record: Record) -> bool:
        return self.workers is None or workers_of(record) == self.workers
