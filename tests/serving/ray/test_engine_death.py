"""An engine whose device is lost dies and says so; its requests are not at fault and run again elsewhere."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray import serve
from ray.serve._private.local_testing_mode import make_local_deployment_handle
from serving_helpers import Bench, Memory, use, video_request

from infra.errors import InvalidInput, Unavailable
from serving.config import ServeConfig
from serving.engine import batch, failures, finishing
from serving.engine_client import EngineLost
from serving.events import Admitted, Failed, Finished, Progressed
from serving.ray.deployment import EngineReplica, build_app
from serving.ray.engine_service import EngineService
from serving.ray.ingress import HandleEngine


def fail(*_: object) -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def config(tmp_path: Path) -> ServeConfig:
    return ServeConfig(foundation="tiny-random:unet3d", data_dir=str(tmp_path), slots=2, rank=4, max_batch=2)


@pytest.mark.parametrize(
    ("module", "name"), [(batch, "start"), (batch, "denoise_step"), (finishing, "finish")]
)
def test_a_request_that_fails_because_the_device_is_lost_ends_the_engine_and_not_the_request(
    unet3d, monkeypatch, module, name
):
    bench = Bench(unet3d)
    monkeypatch.setattr(module, name, fail)
    monkeypatch.setattr(failures, "check_device", fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        bench.run(a=bench.request(1, steps=1), b=bench.request(2, use("orbit"), steps=1))
    assert not any(isinstance(event, Failed) for events in bench.events.values() for event in events)


def test_an_adapter_that_cannot_be_loaded_because_the_device_is_lost_ends_the_engine_too(unet3d, monkeypatch):
    bench = Bench(unet3d, Memory(unet3d, fail))
    monkeypatch.setattr(failures, "check_device", fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        bench.run(a=bench.request(1, use("orbit")))
    assert not bench.events["a"]


def test_a_dead_engine_is_lost_to_all_who_ask_and_to_whom_it_had_begun_for(tmp_path, monkeypatch):
    service = EngineService(config(tmp_path))
    tick = service.engine.tick

    def last() -> bool:
        if tick() and service.engine.stats().steps:
            fail()
        return True

    monkeypatch.setattr(service.engine, "tick", last)

    async def run() -> None:
        begun = service.generate("begun", video_request(steps=3))
        assert [type(await anext(begun)) for _ in range(2)] == [Admitted, Progressed]
        with pytest.raises(EngineLost):
            await anext(begun)
        with pytest.raises(EngineLost):
            await anext(service.generate("new", video_request()))
        for call in (service.describe(), service.check(video_request())):
            with pytest.raises(EngineLost):
                await call
        with pytest.raises(EngineLost):
            service.routing_report()

    try:
        asyncio.run(asyncio.wait_for(run(), 60))
    finally:
        service.close()


@pytest.fixture
def replica_context(monkeypatch) -> None:
    monkeypatch.setattr(serve, "get_replica_context", lambda: SimpleNamespace(replica_tag="engine#1"))


def test_a_replica_answers_through_a_handle_of_serve(tmp_path, replica_context):
    """In Ray Serve's local mode: its own calls of the deployment's methods, without a cluster."""
    app = build_app(config(tmp_path))
    handle = make_local_deployment_handle(app._bound_deployment.init_args[1]._bound_deployment, "app")
    engine = HandleEngine(handle)

    async def run() -> None:
        assert (await engine.describe()).slots["temporal"] == 2
        refused = await engine.check(video_request(width=30))
        assert refused is not None
        assert isinstance(refused.error, InvalidInput)
        events = [event async for event in engine.generate("v", video_request())]
        assert isinstance(events[-1], Finished)
        await handle.close.remote()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_the_process_of_a_replica_ends_with_its_engine(tmp_path, monkeypatch, replica_context):
    replica = EngineReplica.func_or_class(config(tmp_path))
    try:
        replica.check_health()
        assert replica.record_routing_stats()["work"] == 0.0
        assert replica.record_autoscaling_stats()["pace"] == 0.0
        replica.engine.failure = RuntimeError("CUDA error")

        def end(code: int) -> None:
            raise SystemExit(code)

        monkeypatch.setattr("os._exit", end)
        for look in (replica.check_health, replica.record_routing_stats):
            with pytest.raises(SystemExit) as ended:
                look()
            assert ended.value.code == 1
    finally:
        replica.close()


def test_a_call_that_is_given_up_is_taken_back():
    """Else it would go on in the replica, among the calls that this one takes at once."""

    class Silent:
        """A handle, its method and its answer, which never comes."""

        cancelled = 0

        def options(self, **_: object) -> Silent:
            return self

        def remote(self, *_: object) -> Silent:
            return self

        def __getattr__(self, method: str) -> Silent:
            return self

        def __await__(self):
            return asyncio.get_running_loop().create_future().__await__()

        def cancel(self) -> None:
            self.cancelled += 1

    async def run() -> None:
        handle = Silent()
        call = asyncio.create_task(HandleEngine(handle).check(video_request()))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert handle.cancelled == 1

    asyncio.run(run())


def test_an_adapter_that_does_not_come_is_an_answer_and_is_asked_for_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.ray.engine_service.LOAD_TIMEOUT", 0.0)
    service = EngineService(config(tmp_path))
    cache = service.engine.adapters
    monkeypatch.setattr(cache, "_pump", lambda: None)  # the registry does not answer
    try:
        used = use("orbit")
        for refused in (
            asyncio.run(service.check(video_request(adapters=(used,)))),
            *asyncio.run(service.prefetch(used)),
        ):
            assert refused is not None
            assert (type(refused.error), refused.code) == (Unavailable, "adapter_slow")
        assert list(cache._to_fetch) == []
    finally:
        service.close()
