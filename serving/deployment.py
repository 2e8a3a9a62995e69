"""The Ray Serve application: an ingress (API, jobs) and engines (each with the resident model).

Orchestration only; what they do is in `serving.service` and `serving.engine_service`. `motiondirector serve` runs
it; a cluster deploys it with `serve deploy` and a file like

    http_options: {host: 127.0.0.1, port: 8000}
    applications:
      - name: motiondirector
        import_path: serving.deployment:build_app
        route_prefix: /
        args: {registry: "s3://bucket/registry", data_dir: /data/serve, engine_gpus: 1}

An engine replica that dies is started again by Serve; its jobs are back in the queue meanwhile. An ingress that
dies finds them in its database. There is one ingress: it owns the job database's queue.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application, metrics
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serving.api import create_api
from serving.config import ServeConfig
from serving.engine_service import EngineLost, EngineService
from serving.events import Event, Failed
from serving.jobs import STATES
from serving.requests import FoundationInfo, VideoRequest
from serving.service import VideoService
from serving.stats import LABELS, METRICS

APP_NAME = "motiondirector"
LOST = (RayError, RayServeException, ConnectionError)
SECONDS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30]
COUNTS = [1, 2, 4, 8, 16, 32, 64, 128]


class EngineMetrics:
    """An engine's observations as Ray metrics, which Prometheus reads from Ray's exporter."""

    def __init__(self) -> None:
        self._metrics: dict[str, Any] = {}
        for name, (kind, description) in METRICS.items():
            given: dict[str, Any] = {"description": description, "tag_keys": LABELS.get(name, ())}
            if kind == "histogram":
                given["boundaries"] = SECONDS if name.endswith("seconds") else [float(n) for n in COUNTS]
            made = {"histogram": metrics.Histogram, "gauge": metrics.Gauge, "counter": metrics.Counter}[kind]
            self._metrics[name] = made(f"motiondirector_{name}", **given)
        self._last: dict[str, float] = {}

    def __call__(self, name: str, value: float, labels: Mapping[str, str] | None = None) -> None:
        kind, metric = METRICS[name][0], self._metrics[name]
        tags = dict(labels) if labels else None
        if kind == "histogram":
            metric.observe(value, tags=tags)
        elif kind == "counter":
            metric.inc(value, tags=tags)
        elif self._last.get(name) != value:
            self._last[name] = value
            metric.set(value, tags=tags)


class JobMetrics:
    """Jobs by state, as a Ray metric."""

    def __init__(self) -> None:
        self._gauge = metrics.Gauge("motiondirector_jobs", description="Jobs by state.", tag_keys=("state",))

    def __call__(self, counts: dict[str, int]) -> None:
        for state in STATES:
            self._gauge.set(counts.get(state, 0), tags={"state": state})


@serve.deployment(name="engine", health_check_period_s=5, graceful_shutdown_timeout_s=10)
class EngineReplica:
    """One resident model."""

    def __init__(self, config: ServeConfig) -> None:
        self._service = EngineService(config, EngineMetrics())

    async def describe(self) -> FoundationInfo:
        return await self._service.describe()

    async def check(self, request: VideoRequest) -> Failed | None:
        return await self._service.check(request)

    async def generate(self, id: str, request: VideoRequest) -> AsyncIterator[Event]:
        async for event in self._service.generate(id, request):
            yield event

    def check_health(self) -> None:
        self._service.healthy()


class HandleEngine:
    """The engines behind a Serve handle, as an `EngineClient`."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._stream = handle.options(stream=True)

    async def describe(self) -> FoundationInfo:
        return await self._call("describe")

    async def check(self, request: VideoRequest) -> Failed | None:
        return await self._call("check", request)

    async def _call(self, method: str, *args: Any) -> Any:
        try:
            return await getattr(self._handle, method).remote(*args)
        except LOST as error:
            raise EngineLost(f"{type(error).__name__}") from error

    async def generate(self, id: str, request: VideoRequest) -> AsyncIterator[Event]:
        response: Any = self._stream.generate.remote(id, request)
        try:
            async for event in response:
                yield event
        except LOST as error:
            raise EngineLost(f"{type(error).__name__}") from error
        except (asyncio.CancelledError, GeneratorExit):
            response.cancel()
            raise


@serve.deployment(
    name="ingress", health_check_period_s=5, max_ongoing_requests=512, graceful_shutdown_timeout_s=5
)
@serve.ingress()
class Ingress:
    """API and jobs."""

    def __init__(self, config: ServeConfig, engine: DeploymentHandle) -> None:
        self._service = VideoService(config, HandleEngine(engine), JobMetrics())

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_api(self._service)


def build_app(config: ServeConfig) -> Application:
    """The application of a configuration; `serve deploy` calls it with the file's `args`."""
    engine = EngineReplica.options(  # type: ignore[attr-defined]
        num_replicas=config.replicas,
        # every running job is one ongoing request, and checks of new ones must find room beside them
        max_ongoing_requests=4 * config.max_batch + 64,
        ray_actor_options={"num_cpus": config.engine_cpus, "num_gpus": config.engine_gpus},
    ).bind(config)
    return Ingress.options(ray_actor_options={"num_cpus": 0}).bind(config, engine)  # type: ignore[attr-defined]
