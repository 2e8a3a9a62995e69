"""Hundreds of requests, more adapters than slots, cancels, and a registry that fails: each ends once, as itself."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter

import numpy as np
import pytest
import torch
from serving_helpers import Bench, random_adapter

from infra.errors import StorageAway
from infra.registry import Registry
from infra.storage.objects import object_key
from models.adapters.file import save_adapter
from models.denoise import denoise_step, start
from models.generation import GenerationParams, SlotUse
from serving.adapters.files import AdapterFiles
from serving.events import Cancelled, Failed, Finished
from serving.schemas import AdapterUsed

REQUESTS, ADAPTERS = 200, 12


@pytest.fixture
def flaky(registry, monkeypatch):
    """The registry's storage errs, dawdles and cuts short, a third of the time; `broken` objects are never whole."""
    draw, lock, broken = random.Random(7), threading.Lock(), set()
    whole = type(registry.storage).get_file

    def get_file(self, key, path):
        with lock:
            fate = draw.random()
        if key in broken or fate < 0.15:
            whole(self, key, path)
            path.write_bytes(path.read_bytes()[:-50])
        elif fate < 0.25:
            raise StorageAway("the storage is away.")
        else:
            time.sleep(0.01 if fate < 0.35 else 0)
            whole(self, key, path)

    monkeypatch.setattr(type(registry.storage), "get_file", get_file)
    return broken


def test_every_request_ends_once_and_nothing_leaks(unet3d, registry: Registry, flaky, tmp_path, monkeypatch):
    draw = random.Random(3)
    uses, tensors = [], {}
    for n in range(ADAPTERS):
        folder = tmp_path / f"made{n}"
        adapter = random_adapter(unet3d, seed=n, rank=1 + n % 4)
        saved = save_adapter(folder, adapter, unet3d)
        version = registry.publish(f"c{n}", folder, metadata=dict(saved.metadata))
        uses.append(
            AdapterUsed(concept=f"c{n}", version=1, path="temporal", scale=1.0, sha256=version.adapter_sha256)
        )
        tensors[uses[-1].sha256] = adapter.tensors
    flaky.add(object_key(uses[0].sha256))

    finals: dict[int, torch.Tensor] = {}

    def package(foundation, state):  # the latents say whose answer it is; the codec has its own tests
        finals[state.request.seed] = state.denoising.latents_1Cfhw
        return Finished(str(state.request.seed).encode(), "", dict(state.timings))

    monkeypatch.setattr("serving.engine.finishing.package", package)
    size = (tmp_path / "made0" / "adapter_model.safetensors").stat().st_size
    files = AdapterFiles(registry, unet3d, tmp_path / "cache", capacity=6 * size, pause=0.0)
    bench = Bench(unet3d, files, max_batch=6, host_bytes=1, max_overtakes=8)
    requests, threads = {}, threading.active_count()
    for n in range(REQUESTS):
        chosen = draw.sample(range(ADAPTERS), draw.choice([0, 1, 1, 1, 2]))
        requests[f"r{n}"] = bench.request(
            n,
            *(uses[i].model_copy(update={"scale": draw.choice([1.0, 0.5])}) for i in chosen),
            prompt=f"p{n % 3}",
            steps=draw.randint(1, 3),
            guidance_scale=1.0,
            tenant=draw.choice("xyz"),
            priority=draw.choice([-1, 0, 0, 1]),
            deadline=time.time() + draw.choice([0.0, 600, 600, 600, 600, 600]),
        )
    bench.engine.start()
    cancelled = set()
    for n, (id, request) in enumerate(requests.items()):
        bench.submit(id, request)
        if draw.random() < 0.15:
            victim = f"r{draw.randint(max(0, n - 20), n)}"
            if bench.engine.cancel(victim):
                cancelled.add(victim)
        if n % 10 == 0:
            time.sleep(0.002)
        if n == REQUESTS // 2:  # the disk is damaged as well
            for file in list((tmp_path / "cache").glob("*.safetensors"))[:3]:
                with contextlib.suppress(FileNotFoundError):  # just evicted
                    (tmp_path / "cut").write_bytes(file.read_bytes()[:-20])
                    (tmp_path / "cut").replace(file)
    end = time.monotonic() + 120
    while bench.engine.requests:
        assert time.monotonic() < end, bench.engine.stats()
        time.sleep(0.01)
    assert bench.engine.failure is None

    kinds: Counter = Counter()
    for id, request in requests.items():
        last = [event for event in bench.events[id] if isinstance(event, Finished | Failed | Cancelled)]
        assert len(last) == 1, (id, bench.events[id])
        assert bench.events[id][-1] is last[0]
        kinds[type(last[0])] += 1
        if isinstance(last[0], Cancelled):
            assert id in cancelled
        elif isinstance(last[0], Failed):
            assert last[0].code in ("object_damaged", "storage_unavailable", "deadline_passed"), last[0]
        else:
            assert last[0].mp4 == str(request.seed).encode()
        if uses[0].sha256 in {used.sha256 for used in request.adapters}:
            assert not isinstance(last[0], Finished), "it never was whole"
    assert kinds[Finished] > REQUESTS / 3
    assert kinds[Cancelled]
    assert kinds[Failed]

    cache = bench.engine.adapters
    assert set(cache.slots.resident().values()) <= {0}, "a slot is still in use"
    assert not cache.slots._wanted
    assert not cache._to_fetch
    assert not cache._to_pack
    assert set(cache.host.resident().values()) <= {0}
    assert cache.host.used <= cache.host.capacity
    assert sum(file.stat().st_size for file in (tmp_path / "cache").iterdir()) <= 6 * size
    stats = bench.engine.stats()
    assert sum(stats.ended.values()) == REQUESTS
    assert stats.slot_loads > ADAPTERS, "adapters came and went"
    bench.engine.close()
    while threading.active_count() > threads:  # those that fetch are not waited for
        assert time.monotonic() < end, threading.enumerate()
        time.sleep(0.01)

    # Each is what it is alone, with its own adapters in a bank of its own.
    done = [request for id, request in requests.items() if isinstance(bench.events[id][-1], Finished)]
    bank = unet3d.add_bank({"temporal": 2}, 4)
    for request in draw.sample(done, 40):
        for slot, used in enumerate(request.adapters, 1):
            bank.write("temporal", slot, tensors[used.sha256])
        state = start(
            unet3d,
            GenerationParams(
                prompt=request.prompt,
                seed=request.seed,
                steps=request.steps,
                guidance_scale=1.0,
                adapters=tuple(
                    SlotUse(path="temporal", slot=slot, scale=used.scale)
                    for slot, used in enumerate(request.adapters, 1)
                ),
            ),
        )
        while not state.done:
            denoise_step(unet3d, [state])
        np.testing.assert_allclose(state.latents_1Cfhw, finals[request.seed], rtol=0, atol=1e-4)
