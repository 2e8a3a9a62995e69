"""Tells the engines how much work waits in the job store, for autoscaling, and notices how many engines there are."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from infra.stored import Damaged, convert
from serving.engine_client import EngineClient, EngineLost
from serving.jobs import JobStore
from serving.requests import VideoRequest, cost_of

log = logging.getLogger(__name__)
INTERVAL = 2.0  # seconds between looks
SAMPLE = 1000  # jobs whose work is added up; of more, so many times the mean


def waiting_work(store: JobStore, foundation: str | None = None) -> float:
    """Work of the queued jobs (of a foundation) that nobody has, in pixels through the denoiser."""
    rows, number = store.unclaimed(SAMPLE, foundation)
    costs = []
    for row in rows:
        with contextlib.suppress(Damaged):  # it will be failed as it is begun
            costs.append(cost_of(convert(VideoRequest, row)))
    return sum(costs) * number / len(rows) if rows else 0.0


class Backlog:
    """Runs beside the dispatcher, until cancelled.

    Args:
        engines: called with the number of engines, whenever it was asked.
    """

    def __init__(self, store: JobStore, engine: EngineClient, engines: Callable[[int], None]) -> None:
        self._store, self._engine, self._engines = store, engine, engines

    async def run(self) -> None:
        """Look and tell, again and again."""
        while True:
            try:
                foundation = (await self._engine.describe()).fingerprint
                work = await asyncio.to_thread(waiting_work, self._store, foundation)
                self._engines(await self._engine.backlog(work))
            except EngineLost:
                log.info("no engine to be told of the backlog")
            except Exception:  # the database is away for a moment
                log.exception("the backlog is not known")
            await asyncio.sleep(INTERVAL)
