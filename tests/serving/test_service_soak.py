"""The whole service under load and faults: every accepted job ends once, as itself, and nothing stays behind.

Small by default; `make soak` runs the size that the name says: 500 requests over 64 adapters.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import random
import sys
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest
from serving_helpers import Publish, alone, mixed_body, same_video

from infra.errors import StorageAway
from infra.registry import Registry
from serving.adapters import files
from serving.config import ServeConfig
from serving.engine_client import EngineLost
from serving.http.api import create_api
from serving.http.service import VideoService
from serving.jobs.jobs import FINAL
from serving.keys import ApiKey, hash_key
from serving.ray.engine_service import EngineService
from serving.requests import VideoRequest

REQUESTS, ADAPTERS = map(int, os.environ.get("MOTIONDIRECTOR_SOAK", "90x16").split("x"))
TENANTS = ("tenant-a-0123456789", "tenant-b-0123456789", "tenant-c-0123456789")
PATIENCE = 60 + REQUESTS  # seconds
# Bytes in use that the last third may add. Seen: 1 MiB alone, 4.5 late in a process of 1,700 tests.
MALLOC_GROWTH = 8 << 20
BLOCK_GROWTH = 10_000  # and objects of Python; seen: none
KEPT = 2  # integers that safetensors 0.8 never gives back, for each tensor that it reads from a file
TINY = "tiny-random:unet3d"


class Memory:
    """What is in use now: bytes by malloc, tensors among them, and small objects of Python, which it does not see.

    Not the process's pages: of these malloc keeps ever more for later, up to its most at once, and none is a leak.

    Args:
        read: how many tensors each adapter had that has been read.
    """

    class Mallinfo(ctypes.Structure):
        NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
        _fields_ = [(name, ctypes.c_size_t) for name in NAMES.split()]

    def __init__(self, read: list[int]) -> None:
        gc.collect()
        mallinfo = ctypes.CDLL("libc.so.6").mallinfo2
        mallinfo.restype = self.Mallinfo
        found = mallinfo()
        self.malloc = found.uordblks + found.hblkhd
        self.blocks = sys.getallocatedblocks() - KEPT * sum(read)


class Replaced:
    """An engine client whose replica can be killed: its streams break off at once, and a new one takes its place."""

    def __init__(self, config: ServeConfig) -> None:
        self.config, self.replica = config, EngineService(config)
        self.killed: list[weakref.ref[EngineService]] = []
        self._gone = asyncio.Event()

    async def kill(self) -> None:
        """As SIGKILL does: nothing is finished, nothing is said."""
        dead, self.replica, gone = self.replica, None, self._gone
        gone.set()
        self.killed.append(weakref.ref(dead))
        await asyncio.to_thread(dead.close)
        self._gone = asyncio.Event()
        self.replica = await asyncio.to_thread(EngineService, self.config)

    def __getattr__(self, name: str):
        if self.replica is None:
            raise EngineLost("no replica lives")
        return getattr(self.replica, name)

    async def describe(self):
        return await self.__getattr__("describe")()

    async def generate(self, id: str, request: VideoRequest) -> AsyncIterator:
        gone, events = self._gone, self.__getattr__("generate")(id, request)
        try:
            while True:
                following = asyncio.ensure_future(anext(events))
                lost = asyncio.ensure_future(gone.wait())
                try:
                    await asyncio.wait([following, lost], return_when=asyncio.FIRST_COMPLETED)
                    if gone.is_set():
                        raise EngineLost("it was killed")
                    event = following.result()
                except StopAsyncIteration:
                    return
                finally:
                    for waiting in (following, lost):
                        waiting.cancel()
                    await asyncio.gather(following, lost, return_exceptions=True)
                yield event
        finally:
            await events.aclose()


@pytest.fixture
def away(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The registry's objects cannot be had, are cut short, or come late: a quarter of the time, until it is emptied."""
    draw, faults = random.Random(11), [True]
    whole = type(registry.storage).get_file

    def get_file(self, key, path):
        fate = draw.random() if faults else 1.0
        if fate < 0.08:
            raise StorageAway("the storage is away.")
        whole(self, key, path)
        if fate < 0.16:
            path.write_bytes(path.read_bytes()[:-40])
        elif fate < 0.25:
            time.sleep(0.02)

    monkeypatch.setattr(type(registry.storage), "get_file", get_file)
    return faults


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tensors each adapter had that was read."""
    counts, real = [], files.read_adapter

    def read_adapter(*args):
        adapter = real(*args)
        counts.append(2 * len(adapter.tensors))
        return adapter

    monkeypatch.setattr(files, "read_adapter", read_adapter)
    return counts


def config_of(registry: Registry, folder, **more) -> ServeConfig:
    return ServeConfig(
        foundation=TINY,
        registry=registry.uri,
        data_dir=str(folder),
        slots=6,
        spatial_slots=0,
        rank=4,
        max_batch=6,
        threads=1,
        host_memory=1 << 20,
        disk_cache=1 << 20,
        max_queue=REQUESTS,
        api_keys=[ApiKey(sha256=hash_key(key)) for key in TENANTS],
        **more,
    )


async def drive(service: VideoService, engine: Replaced, read: list[int]) -> tuple[dict, Memory]:
    """Ask for everything, with cancels, deletes, dropped streams and kills.

    Returns the final answer of each job by id (None: deleted), and what was in use before these were collected.
    """
    draw, bodies, owner, deleted = random.Random(5), {}, {}, set()
    transport = httpx.ASGITransport(create_api(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=120) as http:

        def key(id: str) -> dict[str, str]:
            return {"Authorization": f"Bearer {owner[id]}"}

        async def listen_a_little(id: str) -> None:  # and hang up
            task = asyncio.create_task(http.get(f"/v1/videos/{id}/events", headers=key(id)))
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        hung_up = []
        for number in range(REQUESTS):
            asked, tenant = mixed_body(number, draw, ADAPTERS, steps=(1, 4)), draw.choice(TENANTS)
            headers = {"Authorization": f"Bearer {tenant}", "Idempotency-Key": f"n{number}"}
            answers = []
            while (
                len(answers) < 1 + number % 2
            ):  # every other one is sent twice, and those refused for now again
                answer = await http.post("/v1/videos", json=asked, headers=headers)
                if answer.status_code != 503:  # the registry, or the replica, was away
                    answers.append(answer)
            assert {a.status_code for a in answers} == {200}, answers[0].text
            [id] = {a.json()["id"] for a in answers}
            bodies[id], owner[id] = asked, tenant
            victim = draw.choice(list(bodies))
            fate = draw.random()
            if fate < 0.06:
                answer = await http.post(f"/v1/videos/{victim}/cancel", headers=key(victim))
                assert answer.status_code in (200, 404, 409), answer.text
            elif fate < 0.10:
                answer = await http.delete(f"/v1/videos/{victim}", headers=key(victim))
                assert answer.status_code in (200, 404), answer.text
                deleted.add(victim)
            elif fate < 0.2:
                hung_up.append(asyncio.create_task(listen_a_little(id)))
            if number in (REQUESTS // 3, 2 * REQUESTS // 3):
                await engine.kill()
            if number % 8 == 0:
                await asyncio.sleep(0.05)
        await asyncio.gather(*hung_up)
        running, end = set(bodies), time.monotonic() + PATIENCE
        while running:
            assert time.monotonic() < end, service.store.count()
            for id in list(running):
                answer = await http.get(f"/v1/videos/{id}", headers=key(id))
                if id in deleted or answer.json()["status"] in FINAL:
                    running.remove(id)
            await asyncio.sleep(0.1)
        memory, finals = Memory(read), {}
        for id in bodies:
            answer = await http.get(f"/v1/videos/{id}", headers=key(id))
            assert answer.status_code == (404 if id in deleted else 200)
            final = finals[id] = None if id in deleted else answer.json()
            if final and final["status"] == "completed":
                answer = await http.get(f"/v1/videos/{id}/content", headers=key(id))
                assert answer.status_code == 200
                final["mp4"] = answer.content
            stranger = next(t for t in TENANTS if t != owner[id])
            hidden = await http.get(f"/v1/videos/{id}", headers={"Authorization": f"Bearer {stranger}"})
            assert hidden.status_code == 404
        again = [await http.get(f"/v1/videos/{id}", headers=key(id)) for id in bodies]
        for id, answer in zip(bodies, again, strict=True):
            final = finals[id]
            assert (answer.json()["status"] if final else answer.status_code) == (
                final["status"] if final else 404
            )
    return finals, memory


async def memory_with(service: VideoService, least: int, read: list[int]) -> Memory:
    """Once so many requests have ended."""
    while sum(n for state, n in service.store.count().items() if state in FINAL) < least:
        await asyncio.sleep(0.05)
    return Memory(read)


def test_every_accepted_job_ends_once_as_itself(
    publish: Publish, registry, unet3d, away, read, tmp_path, monkeypatch
):
    # pytest keeps what is logged: with an engine that was lost the error, its frames and so the engine
    monkeypatch.setattr(logging.getLogger("serving"), "propagate", False)
    for n in range(ADAPTERS):
        publish(unet3d, f"c{n}", seed=n, rank=1 + n % 4)
    config = config_of(registry, tmp_path / "data")

    async def run():
        engine = Replaced(config)
        service = VideoService(config, engine)
        service.start()
        try:
            warm = asyncio.create_task(memory_with(service, 2 * REQUESTS // 3, read))
            finals, after = await drive(service, engine, read)
            end = time.monotonic() + 30
            while engine.replica.engine.requests:
                assert time.monotonic() < end
                await asyncio.sleep(0.05)
            cache = engine.replica.engine.adapters
            assert set(cache.slots.resident().values()) <= {0}, "a slot is still in use"
            assert set(cache.host.resident().values()) <= {0}
            assert not engine.replica._streams
            assert not service._dispatcher._running
            assert len(engine.killed) == 2
            assert not any(dead() for dead in engine.killed), "an engine that was lost is kept"
            before = await warm
            assert after.malloc - before.malloc < MALLOC_GROWTH, "memory does not return"
            assert after.blocks - before.blocks < BLOCK_GROWTH, "objects do not go"
            done = [id for id, final in finals.items() if final and final["status"] == "completed"]
            chosen = random.Random(1).sample(done, min(12, len(done)))
            requests = {id: VideoRequest.model_validate(service.store.get(id).request) for id in chosen}
            return finals, requests, service.store.count()
        finally:
            await service.stop()
            engine.replica.close()

    finals, requests, counts = asyncio.run(run())
    kinds = Counter(final["status"] if final else "deleted" for final in finals.values())
    assert sum(kinds.values()) == REQUESTS
    assert kinds["completed"] > REQUESTS / 2, kinds
    assert {state: count for state, count in counts.items() if count} == {
        state: count for state, count in kinds.items() if state != "deleted"
    }
    for final in finals.values():
        if final and final["status"] == "failed":
            assert final["error"]["code"] in ("object_damaged", "storage_unavailable"), final
    results = len(list((tmp_path / "data" / "results").glob("*.mp4")))
    assert results == kinds["completed"], "a result of nobody, or one that is missing"

    # Each is what it is alone: drawn at random, made again by an engine that does nothing else.
    away.clear()
    quiet = config.model_copy(update={"data_dir": str(tmp_path / "quiet")})
    for id, mp4 in asyncio.run(alone(quiet, requests)).items():
        assert same_video(finals[id]["mp4"], mp4), requests[id]
