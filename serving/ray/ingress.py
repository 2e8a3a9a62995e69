"""The ingress deployment of Ray Serve: `serving.http.service` behind HTTP, with engines behind a handle.

Its process loads neither a model nor torch; modules imported here must not either.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve import metrics
from ray.serve.config import BackpressureConfig
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serving.config import ServeConfig
from serving.engine_client import EngineLost, Residency
from serving.events import Event, Failed
from serving.http.api import create_api
from serving.http.service import VideoService
from serving.jobs.jobs import STATES
from serving.requests import AdapterUsed, FoundationInfo, VideoRequest
from serving.trainings.trainer import Trainer

ENGINE_NAME = "engine"
LOST = (RayError, RayServeException, ConnectionError)
# MAX_REQUESTS: concurrent requests of an ingress (event streams, bodies, checks of new jobs, quick ones).
# MAX_WAITING: further requests that wait in the proxy, few enough to be handled within a second.
MAX_REQUESTS, MAX_WAITING = 512, 256
RETRY_AFTER = 1.0  # seconds, for requests that the proxy refuses


class JobMetrics:
    """Jobs by state, as a Ray metric."""

    def __init__(self) -> None:
        self._gauge = metrics.Gauge("motiondirector_jobs", description="Jobs by state.", tag_keys=("state",))

    def __call__(self, counts: dict[str, int]) -> None:
        for state in STATES:
            self._gauge.set(counts.get(state, 0), tags={"state": state})


class HandleEngine:
    """An `EngineClient` for the engines behind a Serve handle."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._stream = handle.options(stream=True)

    async def describe(self) -> FoundationInfo:
        return await self._call("describe")

    async def check(self, request: VideoRequest) -> Failed | None:
        return await self._call("check", request)

    async def unread(self, prompts: Sequence[str]) -> list[str | None]:
        return await self._call("unread", prompts)

    async def preview(self, id: str) -> bytes | Failed:
        return await self._call("preview", id)

    async def prefetch(self, use: AdapterUsed) -> list[Failed | None]:
        return [refused for answer in await self._all("prefetch", use) for refused in answer]

    async def set_pins(self, revision: int, uses: Sequence[AdapterUsed]) -> int:
        return sum(await self._all("set_pins", revision, uses))

    async def forget(self, hashes: Sequence[str]) -> bool:
        return all(await self._all("forget", hashes))

    async def residency(self) -> Mapping[str, Sequence[Residency]]:
        return {name: held for answer in await self._all("residency") for name, held in answer.items()}

    async def backlog(self, work: float) -> int:
        await self._call("backlog", work)
        return await asyncio.to_thread(running_engines)

    async def _call(self, method: str, *args: Any) -> Any:
        response: Any = getattr(self._handle, method).remote(*args)
        try:
            return await response
        except LOST as error:
            raise EngineLost(f"{type(error).__name__}") from error
        except asyncio.CancelledError:  # otherwise it continues and counts among the replica's requests
            response.cancel()
            raise

    async def _all(self, method: str, *args: Any) -> list[Any]:
        """The answers of all engines that take requests, without those that die meanwhile."""
        try:
            answers = await self._handle.broadcast(method, *args).results_async(return_exceptions=True)
        except LOST as error:
            raise EngineLost(f"{type(error).__name__}") from error
        alive = [answer for answer in answers if not isinstance(answer, LOST)]
        for answer in alive:
            if isinstance(answer, BaseException):
                raise answer
        if not alive:
            raise EngineLost(f"{type(answers[0]).__name__}")
        return alive

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


def running_engines() -> int:
    """Number of this application's engine replicas that take requests. Call it in a replica; blocks."""
    application = serve.status().applications[serve.get_replica_context().app_name]
    states = application.deployments[ENGINE_NAME].replica_states
    return sum(number for state, number in states.items() if str(getattr(state, "value", state)) == "RUNNING")


@serve.deployment(
    name="ingress",
    health_check_period_s=5,
    max_ongoing_requests=MAX_REQUESTS,
    max_queued_requests=MAX_WAITING,
    backpressure_config=BackpressureConfig(status_code=503, retry_after_s=RETRY_AFTER),
    graceful_shutdown_timeout_s=5,
)
@serve.ingress()
class Ingress:
    """The API and the jobs.

    Args:
        secrets: adds this node's secrets to the configuration; None: it has them already.
        trainer: makes what learns concepts; None: this server has no files and trainings.
        extend: adds routes to the API's; None: there are no others.
    """

    def __init__(
        self,
        config: ServeConfig,
        engine: DeploymentHandle,
        secrets: Callable[[ServeConfig], ServeConfig] | None = None,
        trainer: Callable[[ServeConfig], Trainer] | None = None,
        extend: Callable[[FastAPI], None] | None = None,
    ) -> None:
        if secrets is not None:
            config = secrets(config)
        trains = trainer is not None and config.train_lanes is not None
        self._service = VideoService(
            config,
            HandleEngine(engine),
            JobMetrics(),
            trainer=trainer(config) if trainer and trains else None,
        )
        self._extend = extend

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = create_api(self._service)
        if self._extend is not None:
            self._extend(app)
        return app
