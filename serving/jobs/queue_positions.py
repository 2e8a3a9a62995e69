"""Answers how many jobs of its tenant are before a job in the queue, cheaply for any number of callers.

Others' jobs do not count, so that nobody learns of other tenants.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence

from serving.jobs.database import Job
from serving.jobs.jobs import QUEUED

FRESH = 0.5  # seconds for which a known order of the queue is used


class QueuePositions:
    """Answers from a cached order of the whole queue, read at most every FRESH seconds and once at a time.

    For one event loop.

    Args:
        waiting: returns (id, tenant) of all unclaimed jobs in order of their turns. Called in a thread.
    """

    def __init__(self, waiting: Callable[[], Sequence[tuple[str, str]]]) -> None:
        self._waiting = waiting
        self._known: dict[str, int] = {}
        self._numbers: Counter[str] = Counter()  # of the jobs known, by tenant
        self._read_at = float("-inf")
        self._reading: asyncio.Task[dict[str, int]] | None = None

    async def of(self, jobs: Sequence[Job]) -> dict[str, int]:
        """The number of its tenant's jobs before each queued one of these; 0 for a job that a dispatcher has claimed.

        A job newer than the cached order counts as the last.
        """
        queued = [job for job in jobs if job.state == QUEUED]
        if all(job.owner is not None for job in queued):
            return {job.id: 0 for job in queued}
        known = await self._fresh_positions()
        return {
            job.id: known.get(job.id, self._numbers[job.tenant]) if job.owner is None else 0 for job in queued
        }

    async def _fresh_positions(self) -> dict[str, int]:
        if self._reading is None:
            if time.monotonic() - self._read_at < FRESH:
                return self._known
            self._reading = asyncio.create_task(self._read_order())
        return await asyncio.shield(self._reading)  # a cancelled caller must not cancel it for others

    async def _read_order(self) -> dict[str, int]:
        try:
            known, numbers = dict[str, int](), Counter[str]()
            for id, tenant in await asyncio.to_thread(self._waiting):
                known[id] = numbers[tenant]
                numbers[tenant] += 1
            self._known, self._numbers = known, numbers
            self._read_at = time.monotonic()
            return self._known
        finally:
            self._reading = None
