"""QueuePositions in the queue: one look at it answers all who ask."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from fakes import FakeEngine

from serving import client
from serving.client import Client
from serving.config import ServeConfig
from serving.http.service import VideoService
from serving.jobs import queue_positions as places
from serving.jobs.database import Job
from serving.jobs.jobs import new_job
from serving.jobs.queue_positions import QueuePositions


class Queue:
    """An order of the queue that a test sets; counts who looks at it, and lets them wait."""

    def __init__(self, *ids: str) -> None:
        self.ids, self.looks, self.open = list(ids), 0, threading.Event()
        self.open.set()

    def order(self) -> list[tuple[str, str]]:
        self.looks += 1
        assert self.open.wait(60)
        if not self.ids:
            raise OSError("the database is away")
        return [(id, id[: id.find("/") + 1]) for id in self.ids]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """[the time]."""
    now = [100.0]
    monkeypatch.setattr(places, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def job(id: str, **fields) -> Job:
    made = new_job({}, model="foundation")
    for name, value in {"id": id, **fields}.items():
        setattr(made, name, value)
    return made


def test_many_who_ask_are_answered_by_one_look(clock: list[float]):
    queue = Queue("b", "a")
    jobs = [job("a"), job("b"), job("taken", owner="d"), job("made", state="completed")]

    async def main() -> None:
        known = QueuePositions(queue.order)
        queue.open.clear()
        asking = [asyncio.create_task(known.of(jobs)) for _ in range(100)]
        await asyncio.sleep(0)
        asking[0].cancel()  # who began the look goes away
        await asyncio.sleep(0)
        queue.open.set()
        answers = await asyncio.gather(*asking[1:])
        assert answers == [{"a": 1, "b": 0, "taken": 0}] * 99
        queue.ids = ["a", "new", "b"]
        clock[0] += 0.9 * places.FRESH
        assert await known.of([job("a"), job("new")]) == {
            "a": 1,
            "new": 2,
        }  # as was known; what is new is last
        assert queue.looks == 1
        clock[0] += 0.2 * places.FRESH
        assert await known.of([job("a"), job("new")]) == {"a": 0, "new": 1}
        assert queue.looks == 2

    asyncio.run(main())


def test_who_asks_for_no_waiting_job_looks_at_no_queue():
    queue = Queue("a")
    assert asyncio.run(QueuePositions(queue.order).of([job("b", owner="d"), job("c", state="failed")])) == {
        "b": 0
    }
    assert queue.looks == 0


def test_only_jobs_of_its_tenant_are_before_a_job():
    queue = Queue("a/1", "b/1", "a/2", "b/2")
    asked = [job(id, tenant=id[:2]) for id in ("a/2", "b/1", "b/new", "c/new")]
    assert asyncio.run(QueuePositions(queue.order).of(asked)) == {"a/2": 1, "b/1": 0, "b/new": 2, "c/new": 0}


def test_a_look_that_fails_is_taken_anew_by_the_next(clock: list[float]):
    queue = Queue()

    async def main() -> None:
        known = QueuePositions(queue.order)
        with pytest.raises(OSError, match="away"):
            await known.of([job("a")])
        queue.ids = ["a"]
        assert await known.of([job("a")]) == {"a": 0}

    asyncio.run(main())


def test_a_service_looks_once_for_all_its_polls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(places, "FRESH", 300.0)

    async def main() -> None:
        service = VideoService(ServeConfig(data_dir=str(tmp_path)), FakeEngine())
        looks, order = [], service._places._waiting
        monkeypatch.setattr(service._places, "_waiting", lambda: looks.append(1) or order())
        jobs = [service.store.add({}, model="foundation") for _ in range(3)]
        for _ in range(4):
            assert [place for _, place in await service.with_positions(jobs)] == [0, 1, 2]
        assert len(looks) == 1
        service.store.close()

    asyncio.run(main())


def test_the_client_asks_less_often_while_others_are_before_it(monkeypatch: pytest.MonkeyPatch):
    shown = {
        "id": "video_1",
        "model": "foundation",
        "created_at": 0,
        "completed_at": None,
        "expires_at": None,
        "prompt": "x",
        "size": "32x32",
        "seconds": "0.5",
        "frames": 4,
        "seed": 1,
        "steps": 4,
        "guidance_scale": 1.0,
        "negative_prompt": "",
        "scheduler": None,
        "adapters": [],
        "timings": {},
        "batch_neighbours": None,
        "priority": 0,
        "deadline": None,
        "webhook_url": None,
        "error": None,
        "progress": 0,
    }
    states = [("queued", 7), ("queued", 0), ("in_progress", None), ("completed", None)]
    left = iter(states)

    def answer(_request: httpx.Request) -> httpx.Response:
        status, position = next(left)
        return httpx.Response(200, json={**shown, "status": status, "queue_position": position})

    slept: list[float] = []
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=time.monotonic, sleep=slept.append))
    with Client("http://127.0.0.1:1", transport=httpx.MockTransport(answer)) as one:
        assert one.wait("video_1").status == "completed"
    assert slept == [client.QUEUED_INTERVAL, 0.2, 0.2]
