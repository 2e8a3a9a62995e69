"""Watches a batch from outside through its records, and reports what changed since the last look."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.batch.state.record import Record
    from training.batch.state.state import BatchState

COUNTS_S = 10.0  # seconds between two lines of counts


@dataclass
class Watch:
    """Each call reads the records and reports changes; `events` collects them: {"seconds", "text"}."""

    batch: BatchState
    tell: Callable[[str], None]
    events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._lanes: set[str] = set()
        self._ended: set[str] = set()
        self._lost: Counter[str] = Counter()
        self._counts, self._counted = "", 0.0

    def say(self, text: str) -> None:
        """Report and collect an event."""
        self.events.append({"seconds": round(time.monotonic() - self._began, 1), "text": text})
        self.tell(text)

    def __call__(self) -> list[Record]:
        """Read the records, report changes, and return the records."""
        records = self.batch.records()
        for lane in sorted({r.lease.owner for r in records if r.lease is not None} - self._lanes):
            self._lanes.add(lane)
            self.say(f"lane {lane} trains")
        for record in records:
            if record.lost > self._lost[record.name]:
                self._lost[record.name] = record.lost
                again = f"step {record.checkpoint_step}" if record.checkpoint_step else "its first step"
                self.say(f"{record.name}: its lane died; it continues from {again}")
            if record.ended and record.name not in self._ended:
                self._ended.add(record.name)
                self.say(f"{record.name}: {record.status} {record.version or record.reason or ''}")
        self._count(records)
        return records

    def _count(self, records: Sequence[Record]) -> None:
        """Print the number of concepts in each state, if it changed and was not printed recently."""
        states = Counter(record.status for record in records)
        steps = sum(record.checkpoint_step for record in records if not record.ended)
        counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        counts += f"; checkpoints of {steps} steps" if steps else ""
        if counts != self._counts and time.monotonic() - self._counted > COUNTS_S:
            self._counts, self._counted = counts, time.monotonic()
            self.tell(f"  {counts}")


def two_lanes_under_way(records: Sequence[Record]) -> bool:
    """Whether two lanes train concepts that have checkpoints: the moment to kill a node."""
    lanes = {r.lease.owner for r in records if r.lease is not None and r.checkpoint_step and not r.ended}
    return len(lanes) >= 2
