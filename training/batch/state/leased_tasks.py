"""Tasks that many processes share and one of them does: taken by compare-and-swap, held under a lease, then done.

    tasks = LeasedTasks(storage.sub("validations"), owner)
    if tasks.take("orbit-1"):
        tasks.done("orbit-1", {"scores": ...})

When a process dies, its tasks are free again after their leases expire (infra/storage/leases.py). A
process that hangs for longer than its lease can cause a task to be done twice, so tasks must be repeatable.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.storage import Storage
from infra.storage.leases import LEASE_S, Lease, Objects
from infra.storage.stored import parse


@dataclass(frozen=True)
class TaskRecord(Lease):
    """The stored state of a task that was taken."""

    result: dict[str, Any] | None = field(kw_only=True)  # given to `done`; None: not done yet


class LeasedTasks:
    """One object per task: who holds it and until when, or its result.

    Args:
        owner: name of this holder, for people.
        lease_s: seconds that a task is held unless renewed.
        clock: UTC seconds.
        token: identifies this holder; default: a new one.
    """

    def __init__(
        self,
        storage: Storage,
        owner: str,
        *,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = time.time,
        token: str | None = None,
    ) -> None:
        self.storage, self.owner, self.lease_s, self.clock = storage, owner, lease_s, clock
        self.token = token or uuid.uuid4().hex
        remedy = "delete it; the task is then done again"
        self._objects = Objects(storage, "", lambda body, _: parse(TaskRecord, body), remedy)

    def take(self, name: str) -> bool:
        """Hold this task. Returns False if it is done or another process holds it."""

        def step(record: TaskRecord | None) -> TaskRecord | None:
            now = self.clock()
            if record is None or self._is_mine(record) or (record.result is None and record.is_over(now)):
                return self._new_record()
            return record.renewed(now) if record.result is None and record.is_ahead(now) else None

        return self._is_mine(self._objects.change(name, step))

    def renew(self, name: str) -> bool:
        """Extend the lease. Returns False if another process holds the task now."""
        return self._change(name, None)

    def done(self, name: str, result: Mapping[str, Any]) -> bool:
        """Mark the task as done, with this result. Returns False if another process holds it now."""
        return self._change(name, dict(result))

    def give_back(self, name: str) -> None:
        """Release the task for other processes."""
        if self._is_mine(self.get(name)):
            self.storage.delete(f"{name}.json")

    def get(self, name: str) -> TaskRecord | None:
        """The stored state of a task; None if nobody took it. Raises DamagedData if it cannot be read."""
        return self._objects.get(name)

    def results(self, names: set[str]) -> dict[str, dict[str, Any]]:
        """The results of those tasks that are done, by name. Needs one listing and one read per stored task."""
        there = {info.key.removesuffix(".json") for info in self.storage.list()}
        record = {name: self.get(name) for name in sorted(names & there)}
        return {name: one.result for name, one in record.items() if one and one.result is not None}

    def _change(self, name: str, result: dict[str, Any] | None) -> bool:
        """Renew a task, with this result. Returns False if this process does not hold it."""
        change = self._objects.change
        return (
            change(name, lambda record: self._new_record(result) if self._is_mine(record) else None)
            is not None
        )

    def _new_record(self, result: dict[str, Any] | None = None) -> TaskRecord:
        return TaskRecord(self.owner, self.token, self.clock() + self.lease_s, self.lease_s, result=result)

    def _is_mine(self, record: TaskRecord | None) -> bool:
        return record is not None and record.token == self.token and record.result is None
