"""Jobs outlive engines and ingresses: each ends exactly once, whatever dies in between."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from fakes import INFO
from serving_helpers import video_request
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from infra.errors import InvalidInput, StorageAway, StorageDenied, StorageFull, UserError
from infra.storage import open_storage
from infra.storage.s3 import BucketNotFound
from serving.engine_client import EngineLost
from serving.events import Admitted, Event, Failed, Finished, Progressed
from serving.jobs import dispatcher as dispatcher_module
from serving.jobs.claims import Claims
from serving.jobs.database import Delivery, Job
from serving.jobs.dispatcher import MAX_ATTEMPTS, Dispatcher, result_key
from serving.jobs.jobs import JobStore
from serving.requests import VideoRequest

REQUEST = video_request().model_dump(mode="json")
WHOLE: list[Event] = [Admitted(0.0, 0.0), Progressed(1, 2), Progressed(2, 2), Finished(b"mp4", "0" * 64, {})]


class ScriptedEngine:
    """An engine whose answers a test writes: script(job id, attempt) -> events, or exceptions to raise."""

    def __init__(self, script: Callable[[str, int], list]) -> None:
        self.script = script
        self.runs: list[str] = []
        self.cancelled: list[str] = []
        self.running = 0
        self.most = 0

    async def describe(self):
        return INFO

    async def check(self, request):
        return None

    async def generate(self, id: str, request: VideoRequest) -> AsyncIterator[Event]:
        self.runs.append(id)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            for event in self.script(id, self.runs.count(id)):
                await asyncio.sleep(0)
                if isinstance(event, BaseException):
                    raise event
                if event == "hang":
                    await asyncio.sleep(3600)
                yield event
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append(id)
            raise
        finally:
            self.running -= 1


class House:
    """A store, a results folder and dispatchers on them."""

    def __init__(self, folder: Path) -> None:
        self.store = JobStore(f"sqlite:///{folder / 'jobs.sqlite'}")
        self.results = open_storage(folder)

    def add(self, jobs: int = 1) -> list[str]:
        return [self.store.add(REQUEST, model="foundation").id for _ in range(jobs)]

    def run(self, engine: ScriptedEngine, until: Callable[[], bool], **settings) -> None:
        async def main() -> None:
            dispatcher = self.dispatcher(engine, **settings)
            task = asyncio.create_task(dispatcher.run())
            end = time.monotonic() + 30
            while not until():
                assert time.monotonic() < end, self.store.count()
                assert not task.done()
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(main())

    def dispatcher(self, engine: ScriptedEngine, **settings) -> Dispatcher:
        settings = {"max_in_flight": 8, "ttl": 1000.0, **settings}
        return Dispatcher(self.store, engine, self.results, **settings)

    def all(self, state: str) -> bool:
        return set(self.store.count()) == {state}


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "RETRY_PAUSE", 0.01)


def test_a_job_is_run_and_its_video_kept(house: House):
    [id] = house.add()
    house.run(ScriptedEngine(lambda id, attempt: WHOLE), lambda: house.all("completed"))
    job = house.store.get(id)
    assert house.results.get(job.result_key) == b"mp4"
    assert job.result_size == 3
    assert job.expires_at > time.time()


@pytest.mark.parametrize("died_after", [0, 1, 2, 3])
def test_a_job_whose_engine_dies_runs_again_and_completes_once(house: House, died_after: int):
    [id] = house.add()
    engine = ScriptedEngine(
        lambda id, attempt: [*WHOLE[:died_after], EngineLost("killed")] if attempt == 1 else WHOLE
    )
    house.run(engine, lambda: house.all("completed"))
    assert engine.runs == [id, id]
    assert house.store.get(id).attempts == 1


def test_a_stream_that_just_ends_is_an_engine_lost(house: House):
    house.add()
    engine = ScriptedEngine(lambda id, attempt: WHOLE[:2] if attempt == 1 else WHOLE)
    house.run(engine, lambda: house.all("completed"))
    assert len(engine.runs) == 2


def test_a_job_that_takes_every_engine_with_it_fails_and_its_neighbours_complete(house: House):
    ids = house.add(4)
    poison = ids[1]

    def script(id: str, attempt: int) -> list:
        # the poison kills whatever runs beside it: every job in flight loses its engine
        if poison in running and not (id == poison and len(running) == 0):
            return [Admitted(0.0, 0.0), EngineLost("killed")]
        return WHOLE

    running: set[str] = set()

    class Shared(ScriptedEngine):
        async def generate(self, id: str, request: VideoRequest) -> AsyncIterator[Event]:
            running.add(id)
            await asyncio.sleep(0.01)
            try:
                async for event in super().generate(id, request):
                    yield event
            finally:
                running.discard(id)

    house.run(Shared(script), lambda: house.store.count() == {"completed": 3, "failed": 1})
    job = house.store.get(poison)
    assert job.error_code == "engine_lost"
    assert job.attempts == MAX_ATTEMPTS


def test_what_the_engine_refuses_fails_with_its_reason(house: House):
    [id] = house.add()
    refuse = [Failed(InvalidInput("the adapter is broken.", code="invalid_adapter"))]
    house.run(ScriptedEngine(lambda id, attempt: refuse), lambda: house.all("failed"))
    job = house.store.get(id)
    assert (job.error_code, job.error_message) == ("invalid_adapter", "the adapter is broken.")


def test_no_more_jobs_than_allowed_are_in_flight(house: House):
    house.add(10)
    engine = ScriptedEngine(lambda id, attempt: WHOLE)
    house.run(engine, lambda: house.all("completed"), max_in_flight=3)
    assert engine.most <= 3
    assert len(engine.runs) == 10


def test_a_new_dispatcher_finishes_what_the_former_began(house: House):
    ids = house.add(3)
    hanging = ScriptedEngine(lambda id, attempt: [*WHOLE[:2], "hang"])
    house.run(hanging, lambda: house.all("in_progress"))
    assert sorted(hanging.cancelled) == sorted(ids)
    engine = ScriptedEngine(lambda id, attempt: WHOLE)
    house.run(engine, lambda: house.all("completed"))
    assert sorted(engine.runs) == sorted(ids)


def test_a_cancelled_job_leaves_the_engine_and_no_result(house: House):
    async def main() -> None:
        [id] = house.add()
        engine = ScriptedEngine(lambda id, attempt: [*WHOLE[:2], "hang"])
        dispatcher = house.dispatcher(engine)
        task = asyncio.create_task(dispatcher.run())
        while house.store.state(id) != "in_progress":
            await asyncio.sleep(0.01)
        house.store.cancel(id)
        await dispatcher.cancel(id)
        assert engine.cancelled == [id]
        assert house.store.state(id) == "cancelled"
        assert not house.results.exists(result_key(id))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.parametrize("end", ["cancelled", "failed", "deleted"])
def test_a_job_that_ends_otherwise_as_its_video_arrives_stays_ended_and_leaves_no_file(
    house: House, end: str
):
    [id] = house.add()
    real, stored = house.results.put, threading.Event()

    def end_then_put(key: str, data: bytes) -> None:
        if end == "failed":
            house.store.fail(id, code="engine_lost", message="by another dispatcher")
        else:
            house.store.cancel(id)
        if end == "deleted":
            house.store.delete(id)
        real(key, data)
        stored.set()

    house.results.put = end_then_put  # type: ignore[method-assign]
    engine = ScriptedEngine(lambda id, attempt: WHOLE)
    house.run(engine, lambda: stored.is_set() and not house.results.exists(result_key(id)))
    assert house.store.state(id) == (None if end == "deleted" else end)


def test_a_result_that_cannot_be_stored_fails_the_job_and_says_why(house: House):
    def full(key: str, data: bytes) -> None:
        raise StorageFull(f"writing /srv/{key}: the disk is full.")

    house.add()
    house.results.put = full  # type: ignore[method-assign]
    house.run(ScriptedEngine(lambda id, attempt: WHOLE), lambda: house.all("failed"))
    [job], _ = house.store.page()
    assert job.error_code == "storage_unavailable"
    assert "the results storage is full" in job.error_message
    assert "/srv" not in job.error_message


def test_expired_results_are_deleted(house: House):
    [id] = house.add()
    house.run(ScriptedEngine(lambda id, attempt: WHOLE), lambda: house.all("completed"), ttl=0.01)
    assert house.results.exists(result_key(id))
    time.sleep(0.02)
    house.run(ScriptedEngine(lambda id, attempt: []), lambda: not house.results.exists(result_key(id)))
    house.run(ScriptedEngine(lambda id, attempt: []), lambda: house.store.get(id).result_key is None)


def test_jobs_are_forgotten_with_their_videos_and_webhook_calls_when_their_time_is_over(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(dispatcher_module, "PURGE_INTERVAL", 0.0)
    monkeypatch.setattr(dispatcher_module, "SWEEP_INTERVAL", 0.01)
    monkeypatch.setattr(dispatcher_module, "MAX_PER_SWEEP", 2)
    old, [new] = house.add(5), house.add()
    house.run(ScriptedEngine(lambda id, attempt: WHOLE), lambda: house.all("completed"))
    waits = house.store.add({**REQUEST, "foundation": "0" * 64}, model="foundation").id
    cancelled = house.store.add(REQUEST, model="foundation", webhook_url="https://example.org/hook").id
    house.store.cancel(cancelled)
    year = 365 * 86_400.0
    with house.store.database.sessions.begin() as session:
        session.execute(update(Job).where(Job.id != new).values(finished_at=Job.finished_at - year))
        session.execute(update(Delivery).values(created_at=Delivery.created_at - year, next_at=None))

    def calls() -> list[str]:
        with house.store.database.sessions() as session:
            return list(session.scalars(select(Delivery.id)))

    assert len(calls()) == 1
    forgotten = lambda: sum(house.store.count().values()) == 2 and not calls()  # noqa: E731
    house.run(ScriptedEngine(lambda id, attempt: WHOLE), forgotten, job_ttl=year / 2)
    assert (house.store.state(new), house.store.state(waits)) == ("completed", "queued")
    assert [house.results.exists(result_key(id)) for id in (*old, new)] == [False] * 5 + [True]


def test_the_jobs_of_a_dispatcher_that_fell_silent_are_finished_by_another_and_it_lets_go(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    """Held up longer than its lease, with its jobs running: another takes over, and what it says then is not heard."""
    monkeypatch.setattr(dispatcher_module, "POLL_INTERVAL", 0.01)

    async def main() -> None:
        ids = house.add(3)
        slow = ScriptedEngine(lambda id, attempt: [*WHOLE[:2], "hang"])
        first = house.dispatcher(slow)
        claim, none = first._claims.claim, lambda *_: []

        def once(*args):
            first._claims.claim = none  # so that it does not take its own jobs again
            return claim(*args)

        first._claims.claim, first._claims.renew = once, none
        frozen = asyncio.create_task(first.run())
        while house.store.count() != {"in_progress": 3}:
            await asyncio.sleep(0.01)
        Claims(house.store.database, lease=-1.0).renew(first.name, ids)  # its last sign was long ago
        quick = ScriptedEngine(lambda id, attempt: WHOLE)
        second = asyncio.create_task(house.dispatcher(quick).run())
        while not house.all("completed") or slow.running:
            await asyncio.sleep(0.01)
        assert sorted(quick.runs) == sorted(slow.cancelled) == sorted(ids)
        assert [house.store.get(id).attempts for id in ids] == [0, 0, 0], "no engine was lost"
        for task in (frozen, second):
            task.cancel()
        await asyncio.gather(frozen, second, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_job_outlives_more_dispatchers_than_it_may_outlive_engines(house: House):
    """Each killed in mid-run: it neither fails nor is it held to be what kills engines, which would run alone."""
    ids = house.add(2)
    for n in range(MAX_ATTEMPTS + 1):
        dead = Claims(house.store.database, lease=-1.0)  # its last sign was long ago
        for job in dead.claim(f"killed {n}", 2):
            house.store.start(job.id, owner=job.owner)
        assert dead.reclaim() == 2
    engine = ScriptedEngine(lambda id, attempt: [*WHOLE[:2], "hang"])
    house.run(engine, lambda: engine.running == 2)
    engine = ScriptedEngine(lambda id, attempt: WHOLE)
    house.run(engine, lambda: house.all("completed"))
    assert sorted(engine.runs) == sorted(ids)


def test_a_job_cancelled_elsewhere_leaves_the_engine_here(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dispatcher_module, "POLL_INTERVAL", 0.01)
    [id] = house.add()
    engine = ScriptedEngine(lambda id, attempt: [*WHOLE[:2], "hang"])

    def cancelled() -> bool:
        if house.store.state(id) == "in_progress":
            house.store.cancel(id)  # as another ingress does
        return engine.cancelled == [id]

    house.run(engine, cancelled)
    assert house.store.state(id) == "cancelled"


def test_dispatchers_of_one_store_hand_engines_no_more_together_than_one_does(house: House):
    house.add(9)
    engine = ScriptedEngine(lambda id, attempt: [*WHOLE[:2], "hang"])

    async def main() -> None:
        first, second = (house.dispatcher(engine, max_in_flight=3) for _ in range(2))
        task = asyncio.create_task(first.run())
        while house.store.count().get("in_progress") != 3:
            await asyncio.sleep(0.01)
        second._foundation = INFO.fingerprint
        await second._dispatch()
        assert not second._running
        second.max_in_flight = 4
        await second._dispatch()
        first.max_in_flight = 4
        await first._dispatch()
        assert (len(first._running), len(second._running)) == (3, 1)
        for running in (task, *second._running.values()):
            running.cancel()
        await asyncio.gather(task, *second._running.values(), return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_two_dispatchers_share_the_jobs_and_run_none_twice(house: House):
    ids = house.add(20)
    engine = ScriptedEngine(lambda id, attempt: WHOLE)

    async def main() -> None:
        tasks = [asyncio.create_task(house.dispatcher(engine, max_in_flight=3).run()) for _ in range(2)]
        while not house.all("completed"):
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 30))
    assert sorted(engine.runs) == sorted(ids)


def test_a_job_whose_deadline_passed_in_the_queue_fails_without_an_engine(house: House):
    id = house.store.add({**REQUEST, "deadline": time.time() - 1}, model="foundation").id
    engine = ScriptedEngine(lambda id, attempt: WHOLE)
    house.run(engine, lambda: house.all("failed"))
    assert house.store.get(id).error_code == "deadline_passed"
    assert engine.runs == []


def once(error: Exception, call: Callable) -> Callable:
    """`call`, but for its first time."""
    left = [error]

    def one(*args, **named):
        if left:
            raise left.pop()
        return call(*args, **named)

    return one


@pytest.mark.parametrize("call", ["start", "note", "complete"])
def test_a_statement_that_the_database_fails_loses_no_job(
    house: House, monkeypatch: pytest.MonkeyPatch, call: str
):
    """Whatever was to be written down: the job's lease runs out and it is made again."""
    monkeypatch.setattr(dispatcher_module, "POLL_INTERVAL", 0.01)
    house.add()
    gone = OperationalError("UPDATE", {}, Exception("the server went away"))
    monkeypatch.setattr(house.store, call, once(gone, getattr(house.store, call)))
    engine = ScriptedEngine(lambda id, attempt: WHOLE)
    house.run(engine, lambda: set(house.store.count()) <= {"completed", "failed"}, lease=0.2)
    assert house.all("completed")
    assert len(engine.runs) > 1


AWAY = [
    StorageAway("s3://bucket does not answer.", code="s3_unreachable"),
    StorageDenied("the credentials have expired.", code="s3_wrong_credentials"),
    BucketNotFound("s3://bucket does not exist."),
]


@pytest.mark.parametrize("away", AWAY, ids=lambda away: away.code)
def test_a_video_is_held_until_the_results_storage_can_be_used_and_not_made_again(
    house: House, monkeypatch: pytest.MonkeyPatch, away: UserError
):
    """For longer than the lease, which is renewed meanwhile."""
    monkeypatch.setattr(dispatcher_module, "POLL_INTERVAL", 0.01)
    monkeypatch.setattr(dispatcher_module, "MAX_PAUSE", 0.05)
    real, back = house.results.put, threading.Event()

    def put(key: str, data: bytes) -> None:
        if not back.is_set():
            raise away
        real(key, data)

    house.results.put = put  # type: ignore[method-assign]
    engine = ScriptedEngine(lambda id, attempt: WHOLE)

    async def main() -> None:
        [id] = house.add()
        dispatcher = house.dispatcher(engine, lease=1.0)
        renewed, renew = [], dispatcher._claims.renew

        def counted(*args) -> None:
            renew(*args)
            renewed.append(house.store.state(id))

        dispatcher._claims.renew = counted  # type: ignore[method-assign]
        task = asyncio.create_task(dispatcher.run())
        while renewed.count("in_progress") < 6:  # every quarter of a second: longer than the lease
            await asyncio.sleep(0.01)
        assert engine.running == 0, "the engine has nothing to do with it any more"
        back.set()
        while not house.all("completed"):
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert house.results.get(result_key(id)) == b"mp4"
        assert house.store.get(id).attempts == 0
        assert engine.runs == [id]

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_job_whose_video_is_held_can_be_cancelled(house: House):
    tries = []

    def put(key: str, data: bytes) -> None:
        tries.append(key)
        raise AWAY[0]

    house.results.put = put  # type: ignore[method-assign]

    async def main() -> None:
        [id] = house.add()
        dispatcher = house.dispatcher(ScriptedEngine(lambda id, attempt: WHOLE))
        task = asyncio.create_task(dispatcher.run())
        while len(tries) < 2:
            await asyncio.sleep(0.01)
        house.store.cancel(id)
        await dispatcher.cancel(id)
        assert not dispatcher._running
        assert house.store.state(id) == "cancelled"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_pauses_grow_up_to_a_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dispatcher_module, "RETRY_PAUSE", 0.5)
    monkeypatch.setattr(dispatcher_module, "MAX_PAUSE", 3.0)
    assert list(itertools.islice(dispatcher_module.pauses(), 5)) == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_deadline_ends_a_job_for_which_no_dispatcher_has_room(house: House):
    [running] = house.add()
    late = house.store.add({**REQUEST, "deadline": time.time() - 1}, model="foundation").id
    patient = house.store.add({**REQUEST, "deadline": time.time() + 1000}, model="foundation").id
    engine = ScriptedEngine(lambda id, attempt: [*WHOLE[:2], "hang"])
    changed: list[str] = []
    house.run(engine, lambda: late in changed and engine.running, max_in_flight=1, changed=changed.append)
    assert house.store.get(late).error_code == "deadline_passed"
    assert house.store.state(patient) == "queued"
    assert engine.runs == [running]
