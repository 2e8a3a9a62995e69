"""How many engines the work wants, and who tells them of it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from fakes import FakeEngine
from pydantic import ValidationError
from ray.serve._private.autoscaling_state import _resolve_policy_callable
from ray.serve._private.config import DeploymentConfig
from ray.serve.config import AutoscalingConfig
from serving_helpers import video_request

from serving.config import ServeConfig
from serving.http.auth import Caller
from serving.http.service import VideoService
from serving.jobs.backlog import waiting_work
from serving.ray.autoscaling import Load, WorkPolicy, latest, seconds_of_work, wanted_engines
from serving.ray.deployment import build_app, scale
from serving.ray.engine_service import EngineService
from serving.ray.routing import Report, key
from serving.requests import AdapterUsed, VideoRequest, cost_of
from serving.schemas import CreateVideo


def test_work_is_what_is_in_the_engines_and_the_newest_word_of_what_waits_for_them():
    loads = [Load(work=100, pace=0.1, backlog=7, age=2), Load(work=50, pace=0.3, backlog=50, age=1), Load()]
    assert seconds_of_work(loads) == pytest.approx(200 * 0.2)
    assert seconds_of_work([Load(work=100), Load(backlog=5, age=1)]) is None
    assert seconds_of_work([]) is None


@pytest.mark.parametrize(
    ("seconds", "engines"), [(0, 1), (59, 1), (60, 1), (61, 2), (240, 4), (10_000, 4), (None, 3)]
)
def test_as_many_engines_as_do_the_work_in_time_within_bounds(seconds, engines):
    assert wanted_engines(seconds, 60.0, now=3, least=1, most=4) == engines


def point(value: float) -> SimpleNamespace:
    return SimpleNamespace(timestamp=0.0, value=value)


def test_rays_controller_gets_its_number_from_what_the_replicas_recorded_last():
    raw = {
        "work": {"a": [point(900), point(100)], "b": [point(20)], "c": []},
        "pace": {"a": [point(1.0)], "b": [point(1.0)]},
        "backlog": {"a": [point(30)], "b": [point(0)]},
        "age": {"a": [point(5)], "b": [point(90)]},
        "running_requests": {"a": [point(5)]},
    }
    assert latest(raw) == [Load(100, 1.0, 30, 5), Load(20, 1.0, 0, 90)]
    config = scale(ServeConfig(replicas=2, max_replicas=8, target_seconds=30))["autoscaling_config"]
    assert isinstance(config, AutoscalingConfig)
    policy = _resolve_policy_callable(config.policy)  # as pickled for the controller
    bounds = {"capacity_adjusted_min_replicas": 2, "capacity_adjusted_max_replicas": 8}
    assert policy(SimpleNamespace(raw_metrics=raw, target_num_replicas=2, **bounds)) == (5, {})
    assert policy(SimpleNamespace(raw_metrics=None, target_num_replicas=3, **bounds)) == (3, {})
    assert WorkPolicy(1.0)(SimpleNamespace(raw_metrics=raw, target_num_replicas=2, **bounds)) == (8, {})


def test_engines_are_fixed_unless_there_is_a_larger_maximum():
    assert (
        scale(ServeConfig(replicas=3))
        == scale(ServeConfig(replicas=3, max_replicas=3))
        == {"num_replicas": 3}
    )
    with pytest.raises(ValidationError, match="max_replicas"):
        ServeConfig(replicas=3, max_replicas=2)


def test_engines_hear_what_waits_in_the_store_and_get_more_at_once_when_there_are_more(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.jobs.backlog.INTERVAL", 0.02)
    engine = FakeEngine(held=True)

    async def run() -> None:
        config = ServeConfig(data_dir=str(tmp_path), max_batch=1, replicas=1, max_replicas=3)
        service = VideoService(config, engine)
        service.start()
        caller = Caller()
        for seed in range(20):
            await service.create(CreateVideo(prompt="x", seed=seed, steps=2, guidance_scale=5.0), caller)
        one = cost_of(engine_request(service))
        while len(engine.seen) < 4 or not engine.backlogs or engine.backlogs[-1] != 16 * one:
            await asyncio.sleep(0.01)
        engine.engines = 3
        while len(engine.seen) < 12 or engine.backlogs[-1] != 8 * one:
            await asyncio.sleep(0.01)
        assert len(engine.seen) == 12
        engine.engines, engine.held = 1, False
        while service.store.count().get("completed") != 20:
            await asyncio.sleep(0.01)
        assert waiting_work(service.store) == 0.0
        await service.stop()

    def engine_request(service):
        return engine.seen[0] if engine.seen else _request(service)

    def _request(service):
        return VideoRequest.model_validate(service.store.page()[0][0].request)

    asyncio.run(asyncio.wait_for(run(), 30))


def test_an_engine_reports_what_is_resident_and_how_much_work_it_has(publish, unet3d, tmp_path, registry):
    version = publish(unet3d, "orbit")
    config = ServeConfig(
        foundation="tiny-random:unet3d",
        registry=str(tmp_path / "registry"),
        data_dir=str(tmp_path / "data"),
        slots=2,
        max_batch=2,
    )
    service = EngineService(config)
    used = AdapterUsed(concept="orbit", version=1, path="temporal", scale=1.0, sha256=version.adapter_sha256)
    request = video_request(adapters=(used,))

    async def make() -> None:
        async for _ in service.generate("v", request):
            assert 0 <= service.routing_report()["work"] <= cost_of(request)

    try:
        assert service.load().pace == 0.0
        asyncio.run(make())
        report = Report.of(service.routing_report())
        assert report.slots == {key("temporal", used.sha256)}
        assert report.work == 0.0
        assert service.load().pace > 0
        asyncio.run(service.backlog(12.0))
        assert service.load().backlog == 12.0
    finally:
        service.close()


def test_the_engines_are_deployed_with_their_router_and_policy(tmp_path):
    """Through the bytes in which Ray carries a deployment's configuration to its controller."""
    app = build_app(ServeConfig(data_dir=str(tmp_path), max_batch=6, replicas=1, max_replicas=3))
    engine = app._bound_deployment.init_args[1]._bound_deployment
    config = DeploymentConfig.from_proto_bytes(engine._deployment_config.to_proto_bytes())
    router = config.request_router_config
    assert router.get_request_router_class().__name__ == "AdapterRouter"
    assert router.request_router_kwargs == {"slack": 3.0}
    scaling = config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 3)
    assert _resolve_policy_callable(scaling.policy).target_seconds == 60.0


@pytest.mark.parametrize(
    ("replicas", "most"), [({"replicas": 5}, 5), ({"replicas": 1, "max_replicas": 6}, 6), ({}, 1)]
)
def test_one_engine_that_is_left_takes_all_jobs_in_hand_and_checks_of_new_ones(tmp_path, replicas, most):
    """Ray would let what comes after jobs that find no room wait behind them."""
    config = ServeConfig(data_dir=str(tmp_path), max_batch=32, **replicas)
    engine = build_app(config)._bound_deployment.init_args[1]._bound_deployment
    service = VideoService(config, FakeEngine())
    service._engines(most)  # as Backlog says when there are that many
    assert engine._deployment_config.max_ongoing_requests >= service._dispatcher.max_in_flight + 64
    service.store.close()
