"""How many jobs are before each one in the queue, for whoever asks and however many do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from serving.database import Job
from serving.jobs import QUEUED

FRESH = 0.5  # seconds for which the order of the queue is held to be known


class Places:
    """Answers from one look at the whole queue, which is taken every FRESH seconds at most and by one at a time.

    For one event loop.

    Args:
        order: ids of all jobs that no dispatcher has, first that whose turn it is. Called in a thread.
    """

    def __init__(self, order: Callable[[], list[str]]) -> None:
        self._order = order
        self._known: dict[str, int] = {}
        self._looked = float("-inf")
        self._looking: asyncio.Task[dict[str, int]] | None = None

    async def of(self, jobs: Sequence[Job]) -> dict[str, int]:
        """How many are before each queued one of these; 0 for one that a dispatcher has taken.

        A job that has come since the last look is held to be the last.
        """
        queued = [job for job in jobs if job.state == QUEUED]
        if all(job.owner is not None for job in queued):
            return {job.id: 0 for job in queued}
        known = await self._look()
        return {job.id: known.get(job.id, len(known)) if job.owner is None else 0 for job in queued}

    async def _look(self) -> dict[str, int]:
        if self._looking is None:
            if time.monotonic() - self._looked < FRESH:
                return self._known
            self._looking = asyncio.create_task(self._look_anew())
        return await asyncio.shield(self._looking)  # who goes away takes it from nobody

    async def _look_anew(self) -> dict[str, int]:
        try:
            order = await asyncio.to_thread(self._order)
            self._known = {id: place for place, id in enumerate(order)}
            self._looked = time.monotonic()
            return self._known
        finally:
            self._looking = None
