"""Carries jobs from the store to an engine and their results to storage.

The store is the truth: what it holds as queued is dispatched, oldest first, a bounded number at once; when the
engine is lost in mid-run the job goes back to the queue; whoever ends a job does it by one conditional UPDATE, so
a job ends exactly once however many engines and ingresses have died meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from infra.errors import UserError
from infra.storage import Storage
from serving.engine import Admitted, Failed, Finished, Progressed
from serving.engine_service import EngineClient, EngineLost
from serving.jobs import CANCELLED, IllegalTransition, Job, JobStore
from serving.requests import VideoRequest

log = logging.getLogger(__name__)
RETRY_PAUSE = 0.2  # seconds before a job whose engine was lost looks for another; doubled up to 5
NOTE_INTERVAL = 0.5  # seconds between writes of a job's progress
SWEEP_INTERVAL = 5.0  # seconds between looks for expired results and counts of jobs
MAX_ATTEMPTS = 5  # engines that one job may outlive before it is held to be the cause
SUSPECT_ATTEMPTS = 2  # from here on a job runs alone, so that it takes no neighbour with it


def result_key(id: str) -> str:
    """Where a job's video is, in the results storage."""
    return f"results/{id}.mp4"


class Dispatcher:
    """Runs jobs until cancelled.

    Args:
        max_in_flight: most jobs handed to engines at once; more wait in the store.
        ttl: seconds a result is kept.
        observe: called every few seconds with the number of jobs by state.
    """

    def __init__(
        self,
        store: JobStore,
        engine: EngineClient,
        results: Storage,
        *,
        max_in_flight: int,
        ttl: float,
        observe: Callable[[dict[str, int]], None] = lambda counts: None,
    ) -> None:
        self._store, self._engine, self._results = store, engine, results
        self._max_in_flight, self._ttl, self._observe = max_in_flight, ttl, observe
        self._running: dict[str, asyncio.Task[None]] = {}
        self._alone = False  # the one running job is a suspect
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Requeue what a former process left unfinished, then dispatch for ever."""
        requeued = await asyncio.to_thread(self._store.requeue_unfinished)
        if requeued:
            log.warning("%d unfinished jobs are queued again", requeued)
        sweeper = asyncio.create_task(self._sweep())
        try:
            while True:
                self._wake.clear()
                await self._dispatch()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):  # not wait_for, which may swallow a cancel before 3.12
                        await self._wake.wait()
        finally:
            sweeper.cancel()
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(sweeper, *self._running.values(), return_exceptions=True)

    def notice(self) -> None:
        """There is a new job."""
        self._wake.set()

    async def cancel(self, id: str) -> None:
        """The store says that the job ended by cancelling: let the engine drop it."""
        task = self._running.get(id)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _dispatch(self) -> None:
        room = self._max_in_flight - len(self._running)
        if room <= 0 or (self._alone and self._running):
            return
        self._alone = False
        try:
            jobs = await asyncio.to_thread(self._store.queued, room, exclude=list(self._running))
        except Exception:  # the database is away for a moment; the next round tries again
            log.exception("the queue cannot be read")
            return
        for job in jobs:
            if job.attempts >= SUSPECT_ATTEMPTS:
                if self._running:
                    return
                self._alone = True
            task = asyncio.create_task(self._serve(job))
            self._running[job.id] = task
            task.add_done_callback(lambda _task, id=job.id: self._done(id))  # type: ignore[misc]
            if self._alone:
                return

    def _done(self, id: str) -> None:
        self._running.pop(id, None)
        self._wake.set()

    async def _serve(self, job: Job) -> None:
        """One job, to its end or back to the queue."""
        try:
            await self._follow(job)
        except IllegalTransition:
            pass  # it was cancelled, or deleted, meanwhile
        except EngineLost as error:
            await self._lost(job, error)
        except Exception as error:
            log.exception("job %s", job.id)
            message = f"internal error while serving the job ({type(error).__name__})"
            if isinstance(error, UserError):  # the results storage is full, or away
                message = error.message
            with contextlib.suppress(IllegalTransition):
                await asyncio.to_thread(self._store.fail, job.id, code="internal_error", message=message)

    async def _follow(self, job: Job) -> None:
        request = VideoRequest.model_validate(job.request)
        timings: dict[str, float] = {}
        noted = 0.0
        async with contextlib.aclosing(self._engine.generate(job.id, request)) as events:  # type: ignore[type-var]
            async for event in events:
                match event:
                    case Admitted():
                        await asyncio.to_thread(self._store.start, job.id)
                        timings = {"queue": time.time() - job.created_at, "adapter_load": event.adapter_load}
                        await asyncio.to_thread(self._store.note, job.id, progress=0, timings=timings)
                    case Progressed():
                        if time.monotonic() - noted >= NOTE_INTERVAL:
                            noted = time.monotonic()
                            percent = min(99, 100 * event.step // event.steps)
                            await asyncio.to_thread(
                                self._store.note, job.id, progress=percent, timings=timings
                            )
                    case Failed():
                        await asyncio.to_thread(
                            self._store.fail, job.id, code=event.code, message=event.message
                        )
                        return
                    case Finished():
                        await asyncio.to_thread(self._keep, job, event, {**event.timings, **timings})
                        return
        raise EngineLost("the engine's events ended early")

    def _keep(self, job: Job, event: Finished, timings: dict[str, float]) -> None:
        """Store the video, then say that it is there. In a thread, so that no cancelling stops it half-way."""
        key = result_key(job.id)
        self._results.put(key, event.mp4)
        try:
            self._store.complete(
                job.id,
                key=key,
                sha256=event.sha256,
                size=len(event.mp4),
                timings=timings,
                expires_at=time.time() + self._ttl,
            )
        except IllegalTransition:
            if self._store.state(job.id) in (None, CANCELLED):
                self._results.delete(key)
            raise

    async def _lost(self, job: Job, error: EngineLost) -> None:
        """Back to the queue, once there is an engine again."""
        log.warning("job %s lost its engine (%s)", job.id, error)
        pause = RETRY_PAUSE
        while True:
            await asyncio.sleep(pause)
            try:
                await self._engine.describe()
                break
            except EngineLost:
                pause = min(2 * pause, 5.0)
        with contextlib.suppress(IllegalTransition):  # it was cancelled meanwhile
            await asyncio.to_thread(self._store.requeue, job.id)
            if job.attempts + 1 >= MAX_ATTEMPTS:
                message = f"{MAX_ATTEMPTS} engines were lost while making this video; it is not tried again."
                await asyncio.to_thread(self._store.fail, job.id, code="engine_lost", message=message)

    async def _sweep(self) -> None:
        """Count jobs, and delete results whose time is over."""
        while True:
            try:
                self._observe(await asyncio.to_thread(self._store.count))
                for job in await asyncio.to_thread(self._store.expired, time.time()):
                    await asyncio.to_thread(self._results.delete, result_key(job.id))
                    await asyncio.to_thread(self._store.forget_result, job.id)
            except Exception:  # storage or database away for a moment
                log.exception("expired results stay for now, jobs are not counted")
            await asyncio.sleep(SWEEP_INTERVAL)
