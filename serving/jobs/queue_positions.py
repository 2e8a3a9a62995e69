"""Answers how many jobs are before a job in the queue, cheaply for any number of callers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from serving.jobs.database import Job
from serving.jobs.jobs import QUEUED

FRESH = 0.5  # seconds for which a known order of the queue is used


class QueuePositions:
    """Answers from a cached order of the whole queue, read at most every FRESH seconds and once at a time.

    For one event loop.

    Args:
        order: returns the ids of all unclaimed jobs in order of their turns. Called in a thread.
    """

    def __init__(self, order: Callable[[], list[str]]) -> None:
        self._order = order
        self._known: dict[str, int] = {}
        self._read_at = float("-inf")
        self._reading: asyncio.Task[dict[str, int]] | None = None

    async def of(self, jobs: Sequence[Job]) -> dict[str, int]:
        """The number of jobs before each queued one of these; 0 for a job that a dispatcher has claimed.

        A job newer than the cached order counts as the last.
        """
        queued = [job for job in jobs if job.state == QUEUED]
        if all(job.owner is not None for job in queued):
            return {job.id: 0 for job in queued}
        known = await self._fresh_positions()
        return {job.id: known.get(job.id, len(known)) if job.owner is None else 0 for job in queued}

    async def _fresh_positions(self) -> dict[str, int]:
        if self._reading is None:
            if time.monotonic() - self._read_at < FRESH:
                return self._known
            self._reading = asyncio.create_task(self._read_order())
        return await asyncio.shield(self._reading)  # a cancelled caller must not cancel it for others

    async def _read_order(self) -> dict[str, int]:
        try:
            order = await asyncio.to_thread(self._order)
            self._known = {id: place for place, id in enumerate(order)}
            self._read_at = time.monotonic()
            return self._known
        finally:
            self._reading = None
