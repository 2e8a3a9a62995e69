"""A job is made by the foundation it was accepted for, whichever servers share its database, and after any restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from fakes import INFO, FakeEngine
from serving_helpers import video_request
from sqlalchemy import update

from infra.storage import open_storage
from serving.config import ServeConfig
from serving.events import Event, Failed, FoundationChanged
from serving.jobs import dispatcher as dispatcher_module
from serving.jobs.backlog import waiting_work
from serving.jobs.claims import Claims
from serving.jobs.database import Job
from serving.jobs.dispatcher import Dispatcher
from serving.jobs.jobs import JobStore
from serving.ray.engine_service import EngineService
from serving.requests import FoundationInfo, VideoRequest

HERE, THERE = "a" * 64, "b" * 64


class Engine(FakeEngine):
    """An engine that holds a foundation, and refuses what is for another one, as a true one does."""

    def __init__(self, foundation: str) -> None:
        super().__init__()
        self.foundation = foundation
        self.refused = 0

    async def describe(self) -> FoundationInfo:
        return INFO.model_copy(update={"fingerprint": self.foundation})

    async def generate(self, id: str, request: VideoRequest) -> AsyncIterator[Event]:
        if request.foundation not in (None, self.foundation):
            self.refused += 1
            yield Failed(FoundationChanged("another"))
            return
        async for event in super().generate(id, request):
            yield event


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "RETRY_PAUSE", 0.01)
    monkeypatch.setattr(dispatcher_module, "POLL_INTERVAL", 0.02)
    monkeypatch.setattr(dispatcher_module, "SWEEP_INTERVAL", 0.02)


def request(foundation: str | None, prompt: str = "x") -> dict:
    return video_request(foundation=foundation, prompt=prompt).model_dump(mode="json")


def add(store: JobStore, foundation: str | None, jobs: int = 1) -> list[str]:
    return [store.add(request(foundation), model="foundation").id for _ in range(jobs)]


def run(store: JobStore, folder: Path, *engines: Engine, until: Callable[[], bool], change=None) -> None:
    async def main() -> None:
        results = open_storage(folder)
        dispatchers = [Dispatcher(store, engine, results, max_in_flight=8, ttl=100.0) for engine in engines]
        tasks = [asyncio.create_task(dispatcher.run()) for dispatcher in dispatchers]
        end = time.monotonic() + 60
        while not until():
            assert time.monotonic() < end, store.count()
            await asyncio.sleep(0.01)
            if change is not None:
                change()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


def test_only_jobs_of_ones_own_foundation_are_claimed_counted_and_in_the_order(store: JobStore):
    claims = Claims(store.database)
    there, here = add(store, THERE, 3), add(store, HERE, 2)
    [old] = add(store, None)
    assert len(claims.claim("t", 3, together=3, foundation=THERE)) == 3
    assert claims.order(HERE) == [*here, old]
    assert claims.order(THERE) == [old]
    assert store.unclaimed(9, HERE)[1] == 3
    assert waiting_work(store, HERE) == 3 * waiting_work(store, THERE)
    taken = claims.claim("h", 9, together=5, foundation=HERE)
    assert [job.id for job in taken] == [*here, old], "three in hand elsewhere took no room"
    assert claims.held("t") == set(there)


def test_after_a_restart_with_another_foundation_jobs_wait_for_their_own(tmp_path: Path):
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    before, after = add(store, THERE, 3), add(store, HERE, 2)
    here, there = Engine(HERE), Engine(THERE)
    run(store, tmp_path, here, until=lambda: store.count().get("completed") == 2)
    assert {store.state(id) for id in after} == {"completed"}
    assert {store.state(id) for id in before} == {"queued"}
    assert {request.foundation for request in here.seen} == {HERE}
    run(store, tmp_path, there, until=lambda: store.count() == {"completed": 5})
    assert {request.foundation for request in there.seen} == {THERE}


def test_two_servers_of_different_foundations_share_a_database_and_make_their_own(tmp_path: Path):
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    for _ in range(6):
        add(store, HERE)
        add(store, THERE)
    here, there = Engine(HERE), Engine(THERE)
    run(store, tmp_path, here, there, until=lambda: store.count() == {"completed": 12})
    assert [(len(e.seen), {r.foundation for r in e.seen}) for e in (here, there)] == [
        (6, {HERE}),
        (6, {THERE}),
    ]


def test_engines_that_change_under_a_running_server_make_no_job_of_the_former_ones(tmp_path: Path):
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    engine = Engine(HERE)
    [first] = add(store, HERE)
    run(store, tmp_path, engine, until=lambda: store.state(first) == "completed")
    later: list[str] = []

    def change() -> None:
        if not later:
            engine.foundation = THERE
            later.extend([*add(store, HERE), *add(store, THERE)])

    run(
        store,
        tmp_path,
        engine,
        until=lambda: bool(later) and store.state(later[1]) == "completed",
        change=change,
    )
    job = store.get(later[0])
    assert (job.state, job.attempts) == ("queued", 0)
    assert [request.foundation for request in engine.seen] == [HERE, THERE]


def test_a_job_fails_when_nobody_has_served_its_foundation_for_long_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    claims = Claims(store.database)
    [orphaned], [elsewhere] = add(store, "c" * 64), add(store, THERE)
    monkeypatch.setattr(dispatcher_module, "ORPHANED_AFTER", 3600.0)
    looks = iter(range(10))
    run(store, tmp_path, Engine(HERE), until=lambda: next(looks) == 9)
    assert store.count() == {"queued": 2}
    monkeypatch.setattr(dispatcher_module, "ORPHANED_AFTER", 0.5)
    run(
        store,
        tmp_path,
        Engine(HERE),
        until=lambda: store.state(orphaned) == "failed",
        change=lambda: claims.mark_served(THERE),
    )
    job = store.get(orphaned)
    assert job.error_code == "foundation_mismatch"
    assert "c" * 12 in (job.error_message or "")
    assert store.state(elsewhere) == "queued", "another server has it in its queue"


def test_jobs_are_orphaned_when_they_waited_long_and_nobody_served_their_foundation(store: JobStore):
    claims = Claims(store.database)
    [orphaned], [served], [old], [_new] = (add(store, of) for of in ("c" * 64, THERE, None, "d" * 64))
    with store.database.sessions.begin() as session:
        early = update(Job).where(Job.id.in_([orphaned, served, old]))
        session.execute(early.values(created_at=Job.created_at - 7200.0))
    claims.mark_served(THERE)
    claims.mark_served(THERE)
    assert [job.id for job in claims.claim_orphaned("d", 9, 3600.0)] == [orphaned]
    assert claims.claim_orphaned("d", 9, 3600.0) == []


def test_an_engine_refuses_what_is_for_another_foundation(tmp_path: Path):
    async def main() -> None:
        config = ServeConfig(
            foundation="tiny-random:unet3d", data_dir=str(tmp_path), slots=1, spatial_slots=0
        )
        engine = EngineService(config)
        try:
            own = (await engine.describe()).fingerprint
            assert await engine.check(video_request(foundation=own)) is None
            other = video_request(foundation=THERE)
            refused = await engine.check(other)
            assert refused is not None
            assert (type(refused.error), refused.code) == (FoundationChanged, "foundation_changed")
            [event] = [event async for event in engine.generate("id", other)]
            assert isinstance(event, Failed)
            assert (type(event.error), event.message) == (FoundationChanged, refused.message)
        finally:
            engine.close()

    asyncio.run(main())
