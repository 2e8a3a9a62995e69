"""Reports the work in the job store to the engines, for autoscaling, and learns the number of engines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from infra.storage.stored import Damaged, convert
from serving.engine_client import EngineClient, EngineLost
from serving.jobs.jobs import JobStore
from serving.requests import VideoRequest, cost_of

log = logging.getLogger(__name__)
INTERVAL = 2.0  # seconds between reports
SAMPLE = 1000  # jobs whose work is summed; beyond that, their mean is extrapolated


def waiting_work(store: JobStore, foundation: str | None = None) -> float:
    """Work of the queued, unclaimed jobs (of a foundation), in denoised pixels."""
    rows, number = store.unclaimed(SAMPLE, foundation)
    costs = []
    for row in rows:
        with contextlib.suppress(Damaged):  # the job will fail when it is started
            costs.append(cost_of(convert(VideoRequest, row)))
    return sum(costs) * number / len(rows) if rows else 0.0


class Backlog:
    """Runs beside the dispatcher, until cancelled.

    Args:
        engines: called with the number of engines after each report.
    """

    def __init__(self, store: JobStore, engine: EngineClient, engines: Callable[[int], None]) -> None:
        self._store, self._engine, self._engines = store, engine, engines

    async def run(self) -> None:
        """Report the backlog repeatedly."""
        while True:
            try:
                foundation = (await self._engine.describe()).fingerprint
                work = await asyncio.to_thread(waiting_work, self._store, foundation)
                self._engines(await self._engine.backlog(work))
            except EngineLost:
                log.info("no engine takes the report of the backlog")
            except Exception:  # the database is unreachable for a moment
                log.exception("the backlog cannot be read")
            await asyncio.sleep(INTERVAL)
