"""Sends jobs from the store to an engine and their results to storage.

The store is the source of truth. A dispatcher claims a limited number of queued jobs and renews its lease
to show that it is alive (`serving.jobs.claims`). If an engine is lost during a job, the job returns to the
queue. A job is ended by one conditional UPDATE, so it ends exactly once, however many engines and
ingresses have died.

A job runs on the foundation it was accepted for. A dispatcher claims jobs of the foundation that its
engines hold, and puts back a job that turns out to need another. A job whose foundation is no longer
served fails after a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping

from sqlalchemy.exc import SQLAlchemyError

from infra.errors import DamagedData, StorageError, SystemFailure, UserError
from infra.storage import Storage
from serving.adapters.storage_faults import StorageFault
from serving.engine_client import EngineClient, EngineLost
from serving.events import Admitted, Failed, Finished, FoundationChanged, Progressed
from serving.jobs.claims import LEASE, SUSPECT_ATTEMPTS, Claims
from serving.jobs.database import Job
from serving.jobs.jobs import CANCELLED, COMPLETED, FAILED, ID, IllegalTransition, JobStore
from serving.requests import VideoRequest, request_of
from serving.threads import RESULTS

log = logging.getLogger(__name__)
RETRY_PAUSE = 0.2  # seconds before the first retry of a lost engine or an unreachable results storage
MAX_PAUSE = 5.0  # maximum pause; pauses double up to it
NOTE_INTERVAL = 0.5  # seconds between writes of a job's progress
POLL_INTERVAL = 1.0  # seconds between looks at the store, if not notified
SWEEP_INTERVAL = 5.0  # seconds between searches for late jobs and expired results, and counts of jobs
MAX_PER_SWEEP = 100  # maximum jobs to fail (such as for their deadline) or to remove per sweep
DESCRIBE_TIMEOUT = 30.0  # seconds to wait for an engine to report its foundation
ORPHANED_AFTER = 3600.0  # seconds without a server of its foundation until a queued job fails
PURGE_INTERVAL = 60.0  # seconds between searches for jobs to remove
MAX_ATTEMPTS = 5  # lost engines after which a job counts as their cause


def pauses() -> Iterator[float]:
    """Seconds between tries, endlessly."""
    pause = RETRY_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, MAX_PAUSE)


def result_key(id: str) -> str:
    """The key of a job's video in the results storage. Raises DamagedData for an invalid id."""
    if not ID.fullmatch(id):
        raise DamagedData(
            f"job id {id[:80]!a} in the job database is damaged; delete its row.",
            code="job_damaged",
        )
    return f"results/{id}.mp4"


class Dispatcher:
    """Runs jobs until cancelled. Several may share one store.

    Args:
        max_in_flight: maximum jobs in engines at once, for all dispatchers of the store; others wait there.
        ttl: seconds to keep a result.
        job_ttl: seconds to keep an ended job, and at most its result; None: until its owner removes it.
        observe: called every few seconds with the number of jobs by state.
        changed: called with the id of each job whose row this dispatcher changed.
        ended: called with the state and timings of each job that this dispatcher ended, from any thread.
        lease: seconds without renewal after which this dispatcher counts as dead.
        with_image: returns a request with the pixels of the image that it begins with. Raises NotFound if the image is gone.
    """

    def __init__(
        self,
        store: JobStore,
        engine: EngineClient,
        results: Storage,
        *,
        max_in_flight: int,
        ttl: float,
        job_ttl: float | None = None,
        observe: Callable[[dict[str, int]], None] = lambda counts: None,
        changed: Callable[[str], None] = lambda id: None,
        ended: Callable[[str, Mapping[str, float]], None] = lambda state, timings: None,
        lease: float = LEASE,
        with_image: Callable[[VideoRequest], Awaitable[VideoRequest]] | None = None,
    ) -> None:
        self._store, self._engine, self._results = store, engine, results
        self.max_in_flight = max_in_flight  # may be changed at any time
        self._ttl, self._job_ttl, self._observe = ttl, job_ttl, observe
        self._changed, self._ended, self._with_image = changed, ended, with_image
        self.name = f"dispatcher_{secrets.token_hex(8)}"
        self._claims = Claims(store.database, lease)
        self._renewed = 0.0
        self._running: dict[str, asyncio.Task[None]] = {}
        self._suspects: deque[Job] = deque()  # claimed; each must run alone
        self._alone = False  # whether the only running job is a suspect
        self._foundation: str | None = None  # fingerprint of the engines' foundation, once known
        self._purged = float("-inf")
        self._wake, self._recheck = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Dispatch until cancelled. Unfinished jobs are then free for other dispatchers."""
        sweeper = asyncio.create_task(self._sweep())
        tracker = asyncio.create_task(self._track_foundation())
        try:
            while True:
                self._wake.clear()
                try:
                    await self._keep_claims()
                    await self._dispatch()
                except Exception:  # the database is unreachable for a moment; the next round retries
                    log.exception("the queue cannot be read")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(
                        POLL_INTERVAL
                    ):  # not wait_for, which may swallow a cancellation before 3.12
                        await self._wake.wait()
        finally:
            helpers = (sweeper, tracker)
            for task in (*helpers, *self._running.values()):
                task.cancel()
            await asyncio.gather(*helpers, *self._running.values(), return_exceptions=True)
            try:
                await asyncio.to_thread(self._claims.release, self.name)
            except Exception:
                log.exception("jobs cannot be released; they stay claimed until their lease expires")

    def notify(self) -> None:
        """Tell the dispatcher that there is a new job."""
        self._wake.set()

    async def cancel(self, id: str) -> None:
        """Make the engine drop a job that is already cancelled in the store."""
        task = self._running.get(id)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep_claims(self) -> None:
        """Renew the lease, free jobs of dead dispatchers, and drop jobs that this one no longer owns.

        It loses a job if another ingress cancelled it, or if this dispatcher was stalled for so long that
        another one took over.
        """
        running = list(self._running)
        ours = [*running, *(job.id for job in self._suspects)]
        held = await asyncio.to_thread(self._claims.held, self.name) if ours else set[str]()
        for id in running:
            if id not in held and id in self._running:
                self._running[id].cancel()
        self._suspects = deque(job for job in self._suspects if job.id in held)
        if time.monotonic() - self._renewed >= self._claims.lease / 4:
            if ours:
                await asyncio.to_thread(self._claims.renew, self.name, ours)
            if self._foundation is not None:
                await asyncio.to_thread(self._claims.mark_served, self._foundation)
            freed = await asyncio.to_thread(self._claims.reclaim)
            if freed:
                log.warning("%d unfinished jobs of dead dispatchers are queued again", freed)
            self._renewed = time.monotonic()

    async def _dispatch(self) -> None:
        if self._suspects:  # no new jobs until each suspect has run alone
            if not self._running:
                self._begin(self._suspects.popleft())
            return
        room = self.max_in_flight - len(self._running)
        if room <= 0 or self._alone or self._foundation is None:
            return
        claimed = (self.name, room, self.max_in_flight, self._foundation)
        for job in await asyncio.to_thread(self._claims.claim, *claimed):
            if job.attempts >= MAX_ATTEMPTS:
                await self._give_up(job)
            elif job.attempts >= SUSPECT_ATTEMPTS:
                self._suspects.append(job)
            else:
                self._begin(job)
        if self._suspects and not self._running:
            self._begin(self._suspects.popleft())

    async def _track_foundation(self) -> None:
        """Ask which foundation the engines hold, and ask again whenever that is in doubt."""
        while True:
            for pause in pauses():
                self._recheck.clear()
                try:
                    async with asyncio.timeout(DESCRIBE_TIMEOUT):
                        self._foundation = (await self._engine.describe()).fingerprint
                    break
                except (EngineLost, TimeoutError):
                    pass
                except Exception:
                    log.exception("the foundation of the engines cannot be determined")
                await asyncio.sleep(pause)
            self._renewed = 0.0  # report it at once
            self._wake.set()
            await self._recheck.wait()
            await asyncio.sleep(RETRY_PAUSE)  # engines of two foundations may alternate for a while

    def _begin(self, job: Job) -> None:
        self._alone = job.attempts >= SUSPECT_ATTEMPTS
        if (before := self._running.get(job.id)) is not None:
            before.cancel()  # this dispatcher stalled: it lost the job and claimed it again
        task = asyncio.create_task(self._run_job(job))
        self._running[job.id] = task
        task.add_done_callback(lambda task: self._done(job.id, task))

    def _done(self, id: str, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            # the database is unreachable
            log.error("job %s returns to the queue when its lease expires", id, exc_info=error)
        if self._running.get(id) is task:
            del self._running[id]
        self._alone = False  # it was the only job, or no suspect is running
        self._changed(id)
        self._wake.set()

    async def _run_job(self, job: Job) -> None:
        """Run one job until it ends or returns to the queue."""
        try:
            await self._make_video(job)
        except IllegalTransition:
            pass  # it was cancelled or deleted meanwhile
        except EngineLost as error:
            await self._requeue_lost(job, error)
        except SQLAlchemyError:
            raise  # the database is unreachable: the job returns when its lease expires
        except StorageFault as error:  # full: waiting videos would only accumulate
            with contextlib.suppress(IllegalTransition):
                await self._fail(job, error.code, error.message)
        except Exception as error:
            log.exception("job %s failed", job.id)
            message = f"internal error while serving the job ({type(error).__name__})."
            with contextlib.suppress(IllegalTransition):
                await self._fail(job, "internal_error", message)

    async def _make_video(self, job: Job) -> None:
        try:
            request = request_of(job)
        except UserError as error:
            await self._fail(job, error.code, error.message)
            return
        if request.deadline is not None and time.time() >= request.deadline:
            await self._fail_late(job)
            return
        if request.image is not None:
            seen = await self._read_image(job, request)
            if seen is None:
                return
            request = seen
        timings: dict[str, float] = {}
        noted = 0.0
        async with contextlib.aclosing(self._engine.generate(job.id, request)) as events:  # type: ignore[type-var]
            async for event in events:
                match event:
                    case Admitted():
                        await asyncio.to_thread(self._store.start, job.id, owner=self.name)
                        timings = {
                            "queue": max(0.0, time.time() - job.created_at),
                            "adapter_load": event.adapter_load,
                        }
                        await self._note(job, request.percent(0, 1), timings)
                    case Progressed():
                        if time.monotonic() - noted >= NOTE_INTERVAL:
                            noted = time.monotonic()
                            await self._note(job, request.percent(event.step, event.steps), timings)
                    case Failed(error=FoundationChanged()):
                        await self._put_back(job)
                        return
                    case Failed():
                        await self._fail(job, event.code, event.message)
                        return
                    case Finished():
                        finished = event
                        break
            else:
                raise EngineLost("the engine's events ended early")
        await self._deliver(job, finished, {**finished.timings, **timings})

    async def _read_image(self, job: Job, request: VideoRequest) -> VideoRequest | None:
        """The request with the pixels of its image; None if the job has failed for it. Retries while the storage is away."""
        assert self._with_image is not None, "requests with images need `with_image`"
        for pause in pauses():
            try:
                return await self._with_image(request)
            except (SystemFailure, StorageError) as error:
                log.warning("the image of job %s cannot be read now: %s", job.id, error.message)
                await asyncio.sleep(pause)
            except UserError as error:
                await self._fail(job, error.code, error.message)
                return None
        raise AssertionError("pauses never end")

    async def _deliver(self, job: Job, video: Finished, timings: dict[str, float]) -> None:
        """Store the video, and retry as long as the results storage is unreachable, so it is not made again.

        Meanwhile the job stays in hand: its lease is renewed, it can be cancelled, and it counts towards
        `max_in_flight`, which limits the videos held in memory.
        """
        for pause in pauses():
            try:
                await RESULTS.run(self._store_video, job, video, timings)
                return
            except StorageFault as error:
                if error.full:
                    raise
                log.warning(
                    "the video of job %s stays in memory until the results storage is available", job.id
                )
                await asyncio.sleep(pause)

    async def _note(self, job: Job, percent: int, timings: dict[str, float]) -> None:
        await asyncio.to_thread(self._store.note, job.id, progress=percent, timings=timings, owner=self.name)
        self._changed(job.id)

    async def _fail(self, job: Job, code: str, message: str) -> None:
        def fail() -> None:
            self._store.fail(job.id, code=code, message=message, owner=self.name)
            self._ended(FAILED, {})

        await asyncio.to_thread(fail)

    async def _fail_late(self, job: Job) -> None:
        await self._fail(job, "deadline_passed", "the job's deadline passed while it was queued.")

    async def _fail_orphaned(self, job: Job) -> None:
        message = (
            f"the video needs a foundation ({(job.foundation or '')[:12]}) that has not been served for "
            f"{ORPHANED_AFTER / 60:g} minutes; request it again with a model that GET /v1/models lists."
        )
        await self._fail(job, "foundation_mismatch", message)

    async def _purge(self) -> None:
        """Remove jobs whose time is over, with their prompts and videos, at most MAX_PER_SWEEP at once."""
        if self._job_ttl is None or time.monotonic() - self._purged < PURGE_INTERVAL:
            return
        before = time.time() - self._job_ttl
        old = await asyncio.to_thread(self._store.ended_before, before, MAX_PER_SWEEP)
        for id in old:
            if ID.fullmatch(id):
                await RESULTS.run(self._results.delete, result_key(id))
            await asyncio.to_thread(self._store.delete, id)
            self._changed(id)
        if len(old) < MAX_PER_SWEEP:  # otherwise there are more
            await asyncio.to_thread(self._store.forget_deliveries, before)
            self._purged = time.monotonic()

    async def _give_up(self, job: Job) -> None:
        message = f"{MAX_ATTEMPTS} engines were lost while making this video; it is not tried again."
        with contextlib.suppress(IllegalTransition):  # it was cancelled meanwhile
            await self._fail(job, "engine_lost", message)
        self._changed(job.id)

    def _store_video(self, job: Job, event: Finished, timings: dict[str, float]) -> None:
        """Store the video, then complete the job. Runs in a thread, so a cancellation cannot interrupt it."""
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
                neighbours=event.neighbours,
                owner=self.name,
            )
        except IllegalTransition:
            # in other states another dispatcher has the job and uses this key for its video
            if self._store.state(job.id) in (None, CANCELLED, FAILED):
                self._results.delete(key)
            raise
        self._ended(COMPLETED, timings)

    async def _put_back(self, job: Job) -> None:
        """Requeue a job for another foundation, and ask again which one the engines hold."""
        log.warning("job %s needs another foundation than the served one, and waits for it", job.id)
        self._foundation = None
        self._recheck.set()
        await asyncio.to_thread(self._store.requeue, job.id, owner=self.name, attempted=False)

    async def _requeue_lost(self, job: Job, error: EngineLost) -> None:
        """Requeue a job whose engine was lost, once an engine answers again."""
        log.warning("job %s lost its engine (%s)", job.id, error)
        for pause in pauses():
            await asyncio.sleep(pause)
            with contextlib.suppress(EngineLost):
                await self._engine.describe()
                break
        with contextlib.suppress(IllegalTransition):  # it was cancelled meanwhile
            await asyncio.to_thread(self._store.requeue, job.id, owner=self.name)

    async def _sweep(self) -> None:
        """Count jobs, fail jobs past their deadline, delete expired results and remove old jobs."""
        while True:
            try:
                self._observe(await asyncio.to_thread(self._store.count))
                for job in await asyncio.to_thread(self._claims.claim_late, self.name, MAX_PER_SWEEP):
                    with contextlib.suppress(IllegalTransition):  # it was cancelled meanwhile
                        await self._fail_late(job)
                    self._changed(job.id)
                for job in await asyncio.to_thread(
                    self._claims.claim_orphaned, self.name, MAX_PER_SWEEP, ORPHANED_AFTER
                ):
                    with contextlib.suppress(IllegalTransition):
                        await self._fail_orphaned(job)
                    self._changed(job.id)
                for job in await asyncio.to_thread(self._store.expired, time.time()):
                    if ID.fullmatch(job.id):  # otherwise this program wrote no video for it
                        await RESULTS.run(self._results.delete, result_key(job.id))
                    await asyncio.to_thread(self._store.forget_result, job.id)
                await self._purge()
            except Exception:  # the storage or the database is unreachable for a moment
                log.exception("the sweep failed; late and expired jobs stay until the next one")
            await asyncio.sleep(SWEEP_INTERVAL)
