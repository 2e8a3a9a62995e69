"""Carries jobs from the store to an engine and their results to storage.

The store is the truth: a dispatcher claims queued jobs, a bounded number at once, and shows by renewing its lease that
it lives (`serving.claims`); when the engine is lost in mid-run the job goes back to the queue; whoever ends a job does
it by one conditional UPDATE, so a job ends exactly once however many engines and ingresses have died meanwhile.

A job is made by the foundation it was accepted for: a dispatcher claims those of the one that its engines hold, and puts
back what turns out to be another's. One whose foundation nobody serves any more fails after a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from sqlalchemy.exc import SQLAlchemyError

from infra.errors import DamagedData, UserError
from infra.storage import Storage
from serving.claims import LEASE, SUSPECT_ATTEMPTS, Claims
from serving.database import Job
from serving.engine_client import EngineClient, EngineLost
from serving.events import Admitted, Failed, Finished, FoundationChanged, Progressed
from serving.jobs import CANCELLED, COMPLETED, FAILED, ID, IllegalTransition, JobStore
from serving.requests import request_of
from serving.storage_faults import StorageFault
from serving.threads import RESULTS

log = logging.getLogger(__name__)
RETRY_PAUSE = 0.2  # seconds before what is away (a lost engine, the results storage) is tried again
MOST_PAUSE = 5.0  # up to which they are doubled
NOTE_INTERVAL = 0.5  # seconds between writes of a job's progress
LOOK_INTERVAL = 1.0  # seconds between looks at the store, when nobody calls
SWEEP_INTERVAL = 5.0  # seconds between looks for late jobs and expired results, and counts of jobs
MOST_LATE = 100  # jobs that are failed (for their deadline, say) or forgotten between two such looks
DESCRIBE_PATIENCE = 30.0  # seconds for an engine to say which foundation it holds
FORSAKEN = 3600.0  # seconds without a server of its foundation after which a queued job fails
PURGE_INTERVAL = 60.0  # seconds between looks for jobs that are to be forgotten
MAX_ATTEMPTS = 5  # engines that one job may outlive before it is held to be the cause


def pauses() -> Iterator[float]:
    """Seconds between tries, for ever."""
    pause = RETRY_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, MOST_PAUSE)


def result_key(id: str) -> str:
    """Where a job's video is, in the results storage. Raises DamagedData for an id that no job has."""
    if not ID.fullmatch(id):
        raise DamagedData(
            f"job id {id[:80]!a} in the job database is damaged; delete its row.",
            code="job_damaged",
        )
    return f"results/{id}.mp4"


class Dispatcher:
    """Runs jobs until cancelled. Several may share one store.

    Args:
        max_in_flight: most jobs handed to engines at once, by all dispatchers of the store; more wait there.
        ttl: seconds a result is kept.
        job_ttl: seconds after its end that a job is kept, and its result at most; None: as long as its owner wants.
        observe: called every few seconds with the number of jobs by state.
        changed: called with the id of each job whose row was changed here.
        ended: called with the state and timings of each job that was ended here, from any thread.
        lease: seconds after its last sign that this dispatcher is held dead.
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
    ) -> None:
        self._store, self._engine, self._results = store, engine, results
        self.max_in_flight = max_in_flight  # may be changed at any time
        self._ttl, self._job_ttl, self._observe = ttl, job_ttl, observe
        self._changed, self._ended = changed, ended
        self.name = f"dispatcher_{secrets.token_hex(8)}"
        self._claims = Claims(store.database, lease)
        self._renewed = 0.0
        self._running: dict[str, asyncio.Task[None]] = {}
        self._suspects: deque[Job] = deque()  # claimed, and to be run each alone
        self._alone = False  # the one running job is a suspect
        self._foundation: str | None = None  # fingerprint of what the engines hold, once one has said so
        self._purged = float("-inf")
        self._wake, self._doubt = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Dispatch until cancelled; what is unfinished then is free for others."""
        sweeper = asyncio.create_task(self._sweep())
        learner = asyncio.create_task(self._learn())
        try:
            while True:
                self._wake.clear()
                try:
                    await self._keep_claims()
                    await self._dispatch()
                except Exception:  # the database is away for a moment; the next round tries again
                    log.exception("the queue cannot be read")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(
                        LOOK_INTERVAL
                    ):  # not wait_for, which may swallow a cancel before 3.12
                        await self._wake.wait()
        finally:
            besides = (sweeper, learner)
            for task in (*besides, *self._running.values()):
                task.cancel()
            await asyncio.gather(*besides, *self._running.values(), return_exceptions=True)
            try:
                await asyncio.to_thread(self._claims.release, self.name)
            except Exception:
                log.exception("jobs stay claimed until their lease runs out")

    def notice(self) -> None:
        """There is a new job."""
        self._wake.set()

    async def cancel(self, id: str) -> None:
        """The store says that the job ended by cancelling: let the engine drop it."""
        task = self._running.get(id)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep_claims(self) -> None:
        """Show that this dispatcher lives, free the jobs of those that do not, and let go of what is not its any more.

        A job is not its any more when somebody cancelled it through another ingress, or when this one was held up so
        long that another took over.
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
                await asyncio.to_thread(self._claims.serve, self._foundation)
            freed = await asyncio.to_thread(self._claims.reclaim)
            if freed:
                log.warning("%d unfinished jobs of dead dispatchers are queued again", freed)
            self._renewed = time.monotonic()

    async def _dispatch(self) -> None:
        if self._suspects:  # no new jobs until each has had its run alone
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

    async def _learn(self) -> None:
        """Know which foundation the engines hold, again whenever that is in doubt."""
        while True:
            for pause in pauses():
                self._doubt.clear()
                try:
                    async with asyncio.timeout(DESCRIBE_PATIENCE):
                        self._foundation = (await self._engine.describe()).fingerprint
                    break
                except (EngineLost, TimeoutError):
                    pass
                except Exception:
                    log.exception("the engines do not say which foundation they hold")
                await asyncio.sleep(pause)
            self._renewed = 0.0  # so that everybody hears of it at once
            self._wake.set()
            await self._doubt.wait()
            await asyncio.sleep(RETRY_PAUSE)  # engines of two foundations may take turns for a while

    def _begin(self, job: Job) -> None:
        self._alone = job.attempts >= SUSPECT_ATTEMPTS
        if (before := self._running.get(job.id)) is not None:
            before.cancel()  # held up for so long that the job was free again, and is this one's once more
        task = asyncio.create_task(self._serve(job))
        self._running[job.id] = task
        task.add_done_callback(lambda task: self._done(job.id, task))

    def _done(self, id: str, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job %s is left to its lease", id, exc_info=error)  # the database is away
        if self._running.get(id) is task:
            del self._running[id]
        self._alone = False  # it was the only one, or there are only others
        self._changed(id)
        self._wake.set()

    async def _serve(self, job: Job) -> None:
        """One job, to its end or back to the queue."""
        try:
            await self._follow(job)
        except IllegalTransition:
            pass  # it was cancelled, or deleted, meanwhile
        except EngineLost as error:
            await self._lost(job, error)
        except SQLAlchemyError:
            raise  # the database is away: its lease brings it back
        except StorageFault as error:  # full: the videos that wait would be ever more
            with contextlib.suppress(IllegalTransition):
                await self._fail(job, error.code, error.message)
        except Exception as error:
            log.exception("job %s", job.id)
            message = f"internal error while serving the job ({type(error).__name__})"
            with contextlib.suppress(IllegalTransition):
                await self._fail(job, "internal_error", message)

    async def _follow(self, job: Job) -> None:
        try:
            request = request_of(job)
        except UserError as error:
            await self._fail(job, error.code, error.message)
            return
        if request.deadline is not None and time.time() >= request.deadline:
            await self._fail_late(job)
            return
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
                        await self._note(job, 0, timings)
                    case Progressed():
                        if time.monotonic() - noted >= NOTE_INTERVAL:
                            noted = time.monotonic()
                            await self._note(job, min(99, 100 * event.step // event.steps), timings)
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

    async def _deliver(self, job: Job, video: Finished, timings: dict[str, float]) -> None:
        """Keep the video, however long the results storage is away: no engine was lost, and none need make it again.

        Meanwhile the job is in hand as before: its lease is renewed, it may be cancelled, and it takes the place of
        another one (`max_in_flight`), which bounds the videos held here.
        """
        for pause in pauses():
            try:
                await RESULTS.run(self._keep, job, video, timings)
                return
            except StorageFault as error:
                if error.full:
                    raise
                log.warning("the video of job %s is held until the results storage can be used", job.id)
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

    async def _fail_forsaken(self, job: Job) -> None:
        message = (
            f"the video was asked of a foundation ({(job.foundation or '')[:12]}) that has not been served for "
            f"{FORSAKEN / 60:g} minutes; GET /v1/models lists what is, ask for it again."
        )
        await self._fail(job, "foundation_mismatch", message)

    async def _purge(self) -> None:
        """Forget the jobs (and with them their prompts and videos) that ended long enough ago, some at a time."""
        if self._job_ttl is None or time.monotonic() - self._purged < PURGE_INTERVAL:
            return
        before = time.time() - self._job_ttl
        old = await asyncio.to_thread(self._store.ended_before, before, MOST_LATE)
        for id in old:
            if ID.fullmatch(id):
                await RESULTS.run(self._results.delete, result_key(id))
            await asyncio.to_thread(self._store.delete, id)
            self._changed(id)
        if len(old) < MOST_LATE:  # else there are more
            await asyncio.to_thread(self._store.forget_deliveries, before)
            self._purged = time.monotonic()

    async def _give_up(self, job: Job) -> None:
        message = f"{MAX_ATTEMPTS} engines were lost while making this video; it is not tried again."
        with contextlib.suppress(IllegalTransition):  # it was cancelled meanwhile
            await self._fail(job, "engine_lost", message)
        self._changed(job.id)

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
                neighbours=event.neighbours,
                owner=self.name,
            )
        except IllegalTransition:
            # else another has the job, and this is or will be its video
            if self._store.state(job.id) in (None, CANCELLED, FAILED):
                self._results.delete(key)
            raise
        self._ended(COMPLETED, timings)

    async def _put_back(self, job: Job) -> None:
        """It is for another foundation than the engines now hold; which one that is has to be asked."""
        log.warning("job %s is not for the foundation that is served now, and waits for its own", job.id)
        self._foundation = None
        self._doubt.set()
        await asyncio.to_thread(self._store.requeue, job.id, owner=self.name, attempted=False)

    async def _lost(self, job: Job, error: EngineLost) -> None:
        """Back to the queue, once there is an engine again; given up when it has outlived too many."""
        log.warning("job %s lost its engine (%s)", job.id, error)
        for pause in pauses():
            await asyncio.sleep(pause)
            with contextlib.suppress(EngineLost):
                await self._engine.describe()
                break
        with contextlib.suppress(IllegalTransition):  # it was cancelled meanwhile
            await asyncio.to_thread(self._store.requeue, job.id, owner=self.name)

    async def _sweep(self) -> None:
        """Count jobs, fail those that wait beyond their deadline, and delete results whose time is over."""
        while True:
            try:
                self._observe(await asyncio.to_thread(self._store.count))
                for job in await asyncio.to_thread(self._claims.claim_late, self.name, MOST_LATE):
                    with contextlib.suppress(IllegalTransition):  # it was cancelled meanwhile
                        await self._fail_late(job)
                    self._changed(job.id)
                for job in await asyncio.to_thread(
                    self._claims.claim_forsaken, self.name, MOST_LATE, FORSAKEN
                ):
                    with contextlib.suppress(IllegalTransition):
                        await self._fail_forsaken(job)
                    self._changed(job.id)
                for job in await asyncio.to_thread(self._store.expired, time.time()):
                    if ID.fullmatch(job.id):  # else there is no video that this program wrote
                        await RESULTS.run(self._results.delete, result_key(job.id))
                    await asyncio.to_thread(self._store.forget_result, job.id)
                await self._purge()
            except Exception:  # storage or database away for a moment
                log.exception("jobs are not counted, and what is late or expired stays for now")
            await asyncio.sleep(SWEEP_INTERVAL)
