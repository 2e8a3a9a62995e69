"""What the API does, without HTTP: accept, look up, cancel, delete, and the dispatcher beside it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from infra.errors import UserError
from infra.registry import Registry, open_registry
from infra.storage import NotFound, open_storage
from serving.config import ServeConfig
from serving.dispatcher import Dispatcher
from serving.engine_service import EngineClient, EngineLost
from serving.jobs import COMPLETED, FINAL, IllegalTransition, Job, JobStore
from serving.requests import FoundationInfo, VideoRequest, resolve
from serving.schemas import AdapterUsed, CreateVideo, ModelInfo, Timings, Video, VideoError

ENGINE_PATIENCE = 30.0  # seconds a request waits for an engine that is starting


class VideoService:
    """Jobs of one server.

    Args:
        config: where jobs, results and concepts are.
        engine: makes the videos.
        observe: called every few seconds with the number of jobs by state.
    """

    def __init__(
        self,
        config: ServeConfig,
        engine: EngineClient,
        observe: Callable[[dict[str, int]], None] = lambda counts: None,
    ) -> None:
        try:
            Path(config.data_dir).mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            message = f"--data-dir {config.data_dir} cannot be made ({error.strerror}); give a folder you may write."
            raise UserError(message, code="invalid_path") from None
        self.config, self._engine = config, engine
        self._lock = lock_folder(Path(config.data_dir))
        self.store = JobStore(config.database_url)
        self._results = open_storage(config.results_uri)
        self._registry: Registry | None = open_registry(config.registry) if config.registry else None
        self._info: FoundationInfo | None = None
        self._dispatcher = Dispatcher(
            self.store,
            engine,
            self._results,
            max_in_flight=4 * config.max_batch * config.replicas,
            ttl=config.results_ttl,
            observe=observe,
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to dispatch, in the running event loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._dispatcher.run())

    async def stop(self) -> None:
        """Stop dispatching; unfinished jobs stay in the store for the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self.store.close()
        self._lock.close()

    @property
    def dispatching(self) -> bool:
        """Whether jobs are being carried to engines."""
        return self._task is not None and not self._task.done()

    async def info(self, patience: float = ENGINE_PATIENCE) -> FoundationInfo:
        """The foundation served. Raises UserError 503 while no engine answers."""
        if self._info is None:
            try:
                async with asyncio.timeout(patience):
                    self._info = await self._engine.describe()
            except (EngineLost, TimeoutError):
                raise engine_unavailable() from None
        return self._info

    async def create(self, body: CreateVideo, tenant: str) -> Job:
        """Accept a job. Raises UserError for what cannot be made (4xx) and when nothing can be (503)."""
        info = await self.info()
        request, model = await asyncio.to_thread(resolve, body, info, self._registry)
        try:
            async with asyncio.timeout(ENGINE_PATIENCE):
                refused = await self._engine.check(request)
        except (EngineLost, TimeoutError):
            raise engine_unavailable() from None
        if refused is not None:
            raise UserError(refused.message, status=refused.status, code=refused.code)
        job = await asyncio.to_thread(
            self.store.add, request.model_dump(mode="json"), model=model, tenant=tenant
        )
        self._dispatcher.notice()
        return job

    async def get(self, id: str, tenant: str) -> Job:
        return await asyncio.to_thread(self.store.get, id, tenant=tenant)

    async def page(self, tenant: str, after: str | None, limit: int, order: str) -> tuple[list[Job], bool]:
        return await asyncio.to_thread(self.store.page, tenant=tenant, after=after, limit=limit, order=order)

    async def cancel(self, id: str, tenant: str) -> Job:
        """Cancel a job that has not ended; 409 when it has (cancelling twice is no error)."""
        job = await self.get(id, tenant)
        try:
            await asyncio.to_thread(self.store.cancel, id)
        except IllegalTransition:
            job = await self.get(id, tenant)
            if job.state != "cancelled":
                raise UserError(
                    f"video {id} has ended ({job.state}) and cannot be cancelled; DELETE removes it.",
                    status=409,
                    code="video_ended",
                ) from None
        await self._dispatcher.cancel(id)
        return await self.get(id, tenant)

    async def delete(self, id: str, tenant: str) -> None:
        """Remove a job and its video; one that runs is cancelled first."""
        job = await self.get(id, tenant)
        if job.state not in FINAL:
            with contextlib.suppress(UserError):  # it ended by itself just now
                await self.cancel(id, tenant)
            job = await self.get(id, tenant)
        if job.result_key:
            await asyncio.to_thread(self._results.delete, job.result_key)
        await asyncio.to_thread(self.store.delete, id)

    async def content(self, id: str, tenant: str) -> bytes:
        """The mp4. 409 when the job has none (yet), 404 when it has expired."""
        job = await self.get(id, tenant)
        if job.state != COMPLETED:
            hint = (
                "poll GET /v1/videos/{id}"
                if job.state not in FINAL
                else (job.error_message or "it was cancelled")
            )
            raise UserError(
                f"video {id} has no content: it is {job.state} ({hint}).",
                status=409,
                code="video_not_completed",
            )
        if job.result_key is not None:
            with contextlib.suppress(NotFound):
                return await asyncio.to_thread(self._results.get, job.result_key)
        raise UserError(
            f"video {id} has expired; make it again with seed {job.request['seed']}.",
            status=404,
            code="video_expired",
        )

    async def models(self) -> list[ModelInfo]:
        """The foundation, then every version of every concept that was trained on it."""
        info = await self.info()
        base = ModelInfo(
            id="foundation", created=0, foundation=info.name, foundation_fingerprint=info.fingerprint
        )
        return [base, *await asyncio.to_thread(self._concepts, info)]

    def _concepts(self, info: FoundationInfo) -> list[ModelInfo]:
        if self._registry is None:
            return []
        return [
            ModelInfo(
                id=f"foundation:{version.ref}",
                created=int(version.created_at.timestamp()),
                foundation=info.name,
                foundation_fingerprint=info.fingerprint,
                concept=version.concept,
                version=version.number,
                sha256=version.adapter_sha256,
            )
            for concept in self._registry.concepts()
            for version in self._registry.versions(concept.name)
            if version.metadata.get("foundation_fingerprint", info.fingerprint) == info.fingerprint
        ]


def lock_folder(folder: Path, patience: float = 10.0) -> IO[str]:
    """Hold the data folder for this process: two ingresses on one job database would run every job twice.

    The lock goes with the process, however it ends. Raises UserError when another server keeps it.
    """
    lock = (folder / "lock").open("w")
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > end:
                lock.close()
                message = (
                    f"--data-dir {folder} is in use by another server; stop that one or give another folder."
                )
                raise UserError(message, status=409, code="data_dir_in_use") from None
            time.sleep(0.2)


def engine_unavailable() -> UserError:
    return UserError(
        "no engine answers: the model is loading, or being started again; try in some seconds.",
        status=503,
        code="engine_unavailable",
    )


def video_of(job: Job) -> Video:
    """A job as its owner sees it."""
    request = VideoRequest.model_validate(job.request)
    return Video(
        id=job.id,
        model=job.model,
        status=job.state,  # type: ignore[arg-type]
        progress=job.progress,
        created_at=int(job.created_at),
        completed_at=int(job.finished_at) if job.finished_at is not None else None,
        expires_at=int(job.expires_at) if job.expires_at is not None else None,
        prompt=request.prompt,
        size=f"{request.width}x{request.height}",
        seconds=f"{request.frames / request.fps:g}",
        frames=request.frames,
        seed=request.seed,
        steps=request.steps,
        guidance_scale=request.guidance_scale,
        negative_prompt=request.negative_prompt,
        scheduler=request.scheduler,
        adapters=[AdapterUsed.model_validate(use.model_dump()) for use in request.adapters],
        timings=Timings(**job.timings),
        error=VideoError(code=job.error_code, message=job.error_message or "") if job.error_code else None,
    )
