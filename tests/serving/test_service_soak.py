"""The whole service in one process, a true engine in it: many requests, adapters and tenants, cancels and deletes.

`MOTIONDIRECTOR_SOAK=500x64 pytest tests/serving/test_service_soak.py` is the long one: 500 requests over 64 adapters.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from serving_helpers import random_adapter

from datasets.decode import decode
from infra.errors import UserError
from infra.registry import open_registry
from infra.storage import NotFound
from models.adapter import save_adapter
from serving.auth import Caller
from serving.config import ServeConfig
from serving.dispatcher import result_key
from serving.engine_service import EngineService
from serving.jobs import CANCELLED, COMPLETED, FINAL
from serving.keys import ApiKey
from serving.schemas import CreateVideo, LoraUse
from serving.service import VideoService

REQUESTS, ADAPTERS = map(int, os.environ.get("MOTIONDIRECTOR_SOAK", "60x12").split("x"))
TENANTS = 4
GROWTH = 96 << 20  # bytes by which the process may grow in the second half


def caller(name: str) -> Caller:
    return Caller(ApiKey(sha256=hashlib.sha256(name.encode()).hexdigest(), name=name))


@contextlib.contextmanager
def suppressed(*codes: str) -> Iterator[None]:
    """These refusals are right, others are not."""
    try:
        yield
    except UserError as error:
        if error.code not in codes:
            raise


class Counted(VideoService):
    """Counts ends by the service's own report, and videos by what was stored."""

    def __init__(self, *args, **more) -> None:
        super().__init__(*args, **more)
        self.ends: Counter = Counter()
        self.stored: Counter = Counter()
        ended, put = self.metrics.ended, self._results.put

        def count_end(state, timings):
            self.ends[state] += 1
            ended(state, timings)

        def count_video(key, *args, **more):
            self.stored[key] += 1
            return put(key, *args, **more)

        self.metrics.ended = self._dispatcher._ended = count_end
        self._results.put = count_video


async def soak(service: Counted, tenants: list[Caller], draw: random.Random) -> None:
    bodies: dict[str, tuple[Caller, CreateVideo]] = {}
    deleted: set[str] = set()
    rss = psutil.Process().memory_info
    half = 0

    async def settle() -> None:
        while True:
            states = [service.store.state(id) for id in bodies]
            if all(state is None or state in FINAL for state in states):
                return
            await asyncio.sleep(0.05)

    for n in range(REQUESTS):
        who = draw.choice(tenants)
        names = [f"c{i}" for i in draw.sample(range(ADAPTERS), draw.choice([0, 1, 1, 1, 2]))]
        body = CreateVideo(
            model="foundation" if not names else f"foundation:{names[0]}",
            lora=[LoraUse(name=name, scale=0.5) for name in names[1:]],
            prompt=f"prompt {n}",
            seed=n,
            steps=draw.randint(1, 3),
            guidance_scale=draw.choice([1.0, 3.0]),
        )
        job, is_new = await service.create(body, who, idempotency_key=f"key-{n}")
        assert is_new
        bodies[job.id] = (who, body)
        if draw.random() < 0.1:  # it did not hear the answer and asks again
            again, is_new = await service.create(body, who, idempotency_key=f"key-{n}")
            assert (again.id, is_new) == (job.id, False)
        victim = draw.choice(list(bodies)[-20:])
        owner, fate = bodies[victim][0], draw.random()
        if fate < 0.12:
            with suppressed("video_ended", "video_not_found"):
                await service.cancel(victim, owner.tenant)
        elif fate < 0.2 and victim not in deleted:
            await service.delete(victim, owner.tenant)
            deleted.add(victim)
        stranger = next(tenant for tenant in tenants if tenant != owner)
        with pytest.raises(UserError, match="there is no video"):
            await service.get(victim, stranger.tenant)
        if n == REQUESTS // 2:
            await settle()
            half = rss().rss
    await settle()
    grown = rss().rss - half
    assert grown < GROWTH, f"{grown >> 20} MiB more than at half time"

    kept = {id: service.store.get(id) for id in bodies if id not in deleted}
    states = Counter(job.state for job in kept.values())
    assert set(states) == {COMPLETED, CANCELLED}, {job.error_message for job in kept.values()}
    assert service.store.count() == dict(states), "none lost, none twice, none that nobody asked for"
    assert sum(service.ends.values()) == REQUESTS
    assert states[COMPLETED] > REQUESTS / 2
    assert states[CANCELLED]
    assert deleted
    assert set(service.stored.values()) == {1}, "a video was made twice"
    assert {result_key(id) for id, job in kept.items() if job.state == COMPLETED} <= set(service.stored)
    contents = [
        await service.content(id, bodies[id][0].tenant) for id, job in kept.items() if job.state == COMPLETED
    ]
    assert len(set(contents)) == len(contents)
    done = [id for id, job in kept.items() if job.state == COMPLETED]
    for id in bodies.keys() - set(done):
        with pytest.raises(NotFound):  # a cancelled or deleted job leaves no video behind
            service._results.get(result_key(id))

    for id in draw.sample(done, 4):  # each is what it is alone
        who, body = bodies[id]
        alone, _ = await service.create(body, who)
        bodies[alone.id] = (who, body)
        await settle()
        ours, theirs = [decode(await service.content(i, who.tenant)).frames_FHWC for i in (id, alone.id)]
        assert abs(ours.astype(int) - theirs).mean() < 1.0


def test_no_job_is_lost_none_is_made_twice_and_nothing_leaks(unet3d, tmp_path: Path):
    registry = open_registry(tmp_path / "registry")
    for n in range(ADAPTERS):
        folder = tmp_path / "made" / str(n)
        saved = save_adapter(folder, random_adapter(unet3d, seed=n, rank=1 + n % 4), unet3d)
        registry.publish(f"c{n}", folder, metadata=dict(saved.metadata))
    size = max(file.stat().st_size for file in (tmp_path / "made").rglob("*.safetensors"))
    config = ServeConfig(
        foundation="tiny-random:unet3d",
        registry=str(tmp_path / "registry"),
        data_dir=str(tmp_path / "data"),
        slots=4,
        spatial_slots=0,
        rank=4,
        max_batch=6,
        disk_cache=8 * size,
        host_memory=8 * size,
        max_queue=REQUESTS,
    )
    engines = EngineService(config)
    engine = engines.engine

    async def run() -> None:
        service = Counted(config, engines)
        service.start()
        try:
            await soak(service, [caller(f"tenant-{n}") for n in range(TENANTS)], random.Random(11))
        finally:
            await service.stop()

    try:
        asyncio.run(asyncio.wait_for(run(), 60 + REQUESTS))
        stats = engine.stats()
        assert engine.failure is None
        assert (stats.waiting, stats.active, stats.finishing, stats.work) == (0, 0, 0, 0)
        assert not engines._streams
        assert set(engine.slots.resident().values()) <= {0}, "a slot is still in use"
        assert stats.free_slots == {"temporal": 4, "spatial": 0}
        assert stats.slot_loads > ADAPTERS, "adapters came and went"
        assert set(engine.tiers.host.resident().values()) <= {0}
        assert engine.tiers.host.used <= engine.tiers.host.capacity
        files = list((tmp_path / "data" / "adapters").rglob("*.safetensors"))
        assert sum(file.stat().st_size for file in files) <= 8 * size
    finally:
        engines.close()
