"""The API's operations without HTTP (accept, look up, cancel, delete), and the background tasks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from infra.errors import Conflict, Forbidden, NotFound, SystemFailure, Throttled, Unavailable, UserError
from infra.storage import FolderStorage, ObjectNotFound, open_storage
from serving.adapters.concepts import open_concepts
from serving.adapters.storage_faults import StorageFault
from serving.config import ServeConfig
from serving.engine_client import EngineClient, EngineLost
from serving.events import FoundationChanged
from serving.http.answers import adapters_late, engine_unavailable, raise_refusal, status_of, video_of
from serving.http.auth import Caller
from serving.http.bodies import Bodies
from serving.http.catalogue import Catalogue
from serving.http.event_stream import Changes, Streams
from serving.http.learning.file_service import FileService
from serving.http.learning.references import References
from serving.http.learning.service import TrainingService
from serving.http.metrics import ServiceMetrics
from serving.jobs.addresses import parse_networks
from serving.jobs.admission import Admission, IdempotencyKey
from serving.jobs.backlog import Backlog
from serving.jobs.claims import Claims
from serving.jobs.database import Job
from serving.jobs.disk_space import DISK, DiskSpace, folders_of
from serving.jobs.dispatcher import Dispatcher, result_key
from serving.jobs.jobs import CANCELLED, COMPLETED, FINAL, IllegalTransition, JobStore
from serving.jobs.pins import PinSender, PinStore
from serving.jobs.queue_positions import QueuePositions
from serving.jobs.quotas import stored_bytes
from serving.jobs.usage import UsageLog, UsageTotal
from serving.jobs.webhooks import Webhooks
from serving.requests import (
    PRIORITY_WEIGHT,
    FoundationInfo,
    VideoRequest,
    check_resolved,
    names_of,
    parse_model,
    request_of,
    resolve,
    texts_to_check,
)
from serving.schemas import CreateVideo, RemixVideo, Video
from serving.sessions import Sessions, new_secret
from serving.tenants.api_keys import KeyRing, KeyStore
from serving.tenants.audit import AuditLog
from serving.tenants.erasure import Eraser, Erasures
from serving.tenants.own_concepts import OwnConcepts
from serving.tenants.tenant_erasure import TenantErasure
from serving.tenants.tenants import Tenants
from serving.threads import DISK_CHECKS, RESULTS, VIDEOS
from serving.trainings.trainer import Trainer

log = logging.getLogger(__name__)
DISK_TIMEOUT = 5.0  # seconds to wait for the check of the local disks
ENGINE_TIMEOUT = 30.0  # seconds a request waits for an engine that is starting


class VideoService:
    """The jobs of one server.

    Args:
        config: names the locations of jobs, results and concepts.
        engine: makes the videos.
        observe: called every few seconds with the number of jobs by state.
        metrics: the metrics to use; None: new ones.
        trainer: learns concepts; None: this server has no files and trainings.
    """

    def __init__(
        self,
        config: ServeConfig,
        engine: EngineClient,
        observe: Callable[[dict[str, int]], None] = lambda counts: None,
        metrics: ServiceMetrics | None = None,
        trainer: Trainer | None = None,
    ) -> None:
        try:
            Path(config.data_dir).mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            message = (
                f"--data-dir {config.data_dir} cannot be created ({error.strerror}); give a writable folder."
            )
            raise UserError(message, code="invalid_path") from None
        self.config, self.engine = config, engine
        self.sessions = Sessions(config.session_secret or new_secret())
        self.metrics = metrics if metrics is not None else ServiceMetrics()
        self.store = JobStore(config.database_url)
        self.keys = KeyRing(self.store.database, config.keys)
        self.key_store, self.audit = KeyStore(self.store.database), AuditLog(self.store.database)
        self._usage = UsageLog(self.store.database)
        self.changes = Changes()
        self.streams = Streams(config.max_streams, lambda: self.keys.tenants)
        self.bodies = Bodies(config.max_bodies)
        self._admission = Admission(
            self.store.database, config.max_queue, lambda id: self.catalogue.own_bytes(id)
        )
        self._claims = Claims(self.store.database)
        self._places = QueuePositions(self._waiting)
        self._results = open_storage(config.results_uri)
        results = self._results.root if isinstance(self._results, FolderStorage) else None
        self._disk_space = DiskSpace(folders_of(config.database_url, Path(config.data_dir), results))
        self._registry = (
            open_concepts(config.registry, Path(config.data_dir, "registries")) if config.registry else None
        )
        pins = PinStore(self.store.database)
        self._pins = PinSender(pins, engine, self.info)
        self.tenants = Tenants(self.store.database)
        self.erasures = Erasures(self.store.database, self._registry)
        self.tenant_erasure = TenantErasure(self.store, self.erasures, self._registry, self._results)
        self._eraser = Eraser(self.erasures, engine, self.tenant_erasure.sweep)
        own = OwnConcepts(self._registry, self.tenants, self.erasures)
        self.catalogue = Catalogue(
            self._registry, engine, self.info, pins, self._pins.send, self.tenants, own
        )
        self._info: FoundationInfo | None = None
        self._webhooks = Webhooks(
            self.store.database,
            config.keys,
            config.webhook_secret,
            parse_networks(config.webhook_networks),
            observe=self.metrics.webhook,
        )
        self._dispatcher = Dispatcher(
            self.store,
            engine,
            self._results,
            max_in_flight=max_in_flight(config, config.replicas),
            ttl=config.results_ttl,
            job_ttl=config.job_ttl,
            observe=observe,
            changed=self.changes.notify,
            ended=self._ended,
            with_image=lambda request: self.references.with_image(request),
        )
        self._filing = FileService(config, self.store.database, self._results, self.bodies)
        self.trainings = None
        if trainer is not None:
            self.trainings = TrainingService(
                config,
                trainer,
                self.store.database,
                self._results,
                self._filing,
                self.info,
                self.streams,
                self.changes,
                self._webhooks.check,
                self.catalogue.has_own,
            )
            self.tenant_erasure.also.append(self.trainings.erase)
        else:
            self.tenant_erasure.also.append(self._filing.erase)
        self.references = References(
            config,
            self._filing,
            self.trainings,
            self.catalogue,
            self.store,
            queued=self._queued,
            changed=self.changes.notify,
        )
        self._backlog = Backlog(self.store, engine, self._engines) if config.autoscales else None
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Start the background tasks in the running event loop."""
        if not self._tasks:
            self._loop = asyncio.get_running_loop()
            if self._registry is not None:
                self._registry.refresh_names()
            parts = (self._dispatcher, self._webhooks, self._pins, self._eraser)
            self._tasks = [asyncio.create_task(part.run()) for part in parts]
            self._tasks.append(asyncio.create_task(self.references.run(lambda: self._info)))
            if self.trainings is not None:
                self._tasks.append(asyncio.create_task(self.trainings.run()))
            if self._backlog is not None:
                self._tasks.append(asyncio.create_task(self._backlog.run()))

    async def stop(self) -> None:
        """Stop the background tasks. Unfinished jobs stay in the store, free for others or the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self.store.close()

    def _engines(self, number: int) -> None:
        """Adapt the number of jobs in hand to the number of engines."""
        self._dispatcher.max_in_flight = max_in_flight(self.config, number)
        self._dispatcher.notify()

    def _ended(self, state: str, timings: Mapping[str, float]) -> None:
        """Handle the end of a job: a webhook may be due. Called from any thread."""
        self.metrics.ended(state, timings)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._webhooks.notify)

    def _queued(self, id: str) -> None:
        """Handle a job that waited for an appearance and is queued now."""
        self.changes.notify(id)
        self._dispatcher.notify()

    @property
    def dispatching(self) -> bool:
        """Whether all background tasks are running (dispatcher, webhooks, pins, eraser)."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    @property
    def known_info(self) -> FoundationInfo | None:
        """The served foundation, if an engine has described it already."""
        return self._info

    async def info(self, patience: float = ENGINE_TIMEOUT, *, fresh: bool = False) -> FoundationInfo:
        """The served foundation, cached unless `fresh`. Raises Unavailable if no engine answers."""
        if self._info is None or fresh:
            try:
                async with asyncio.timeout(patience):
                    self._info = await self.engine.describe()
            except (EngineLost, TimeoutError):
                raise engine_unavailable() from None
        return self._info

    async def ready(self) -> FoundationInfo:
        """The served foundation, if jobs can be accepted and made now. Raises Unavailable."""
        if not self.dispatching:
            raise Unavailable(
                "the server's background tasks are not all running; check its log and restart it.",
                code="not_ready",
            )
        await asyncio.to_thread(self.store.database.ping)
        try:
            async with asyncio.timeout(DISK_TIMEOUT):
                await DISK_CHECKS.run(self._disk_space.check)
        except TimeoutError:
            raise StorageFault(DISK) from None
        return await self.info(patience=1.0, fresh=True)

    async def create(
        self,
        body: CreateVideo,
        caller: Caller,
        idempotency_key: str | None = None,
        image: tuple[Path, str] | None = None,
    ) -> tuple[Job, bool]:
        """Accept a job. Returns it and whether it is new; a repeated request with the same key is not.

        Args:
            image: a local file with the image of the body's `input_reference`, and its name, if it came with the request.

        Raises UserError for an impossible request, Throttled beyond a limit, Unavailable without an engine.
        """
        async with AsyncExitStack() as files, AsyncExitStack() as undo:
            given = await self.references.given(body, image, caller.tenant, files)
            content = body.model_dump(mode="json") | ({} if given is None else {"image": given.sha256})
            idempotency = IdempotencyKey.of(idempotency_key, content)

            async def resolved() -> tuple[VideoRequest, str]:
                request, model = await self._resolve(body, caller)
                info = await self.info()
                return await self.references.attach(request, body, given, caller.tenant, info, undo), model

            job, is_new = await self._accept(resolved, caller, idempotency, body.webhook_url)
            if is_new:
                undo.pop_all()
            return job, is_new

    async def remix(
        self, id: str, body: RemixVideo, caller: Caller, idempotency_key: str | None = None
    ) -> tuple[Job, bool]:
        """Accept a job that repeats another of the same tenant, in any state, with another prompt. Returns as `create`.

        Only the prompt differs of what the frames depend on, even if the registry has changed since. Priority (up to
        the caller's maximum) and webhook are repeated, the deadline is not.

        Raises NotFound if the tenant has no such job, Conflict if it needs another foundation, and as `create`.
        """
        job = await self.get(id, caller.tenant)
        idempotency = IdempotencyKey.of(idempotency_key, {"remix": id, **body.model_dump(mode="json")})
        return await self._accept(
            lambda: self._resolve_remix(job, body, caller), caller, idempotency, job.webhook_url
        )

    async def _accept(
        self,
        resolve_request: Callable[[], Awaitable[tuple[VideoRequest, str]]],
        caller: Caller,
        idempotency: IdempotencyKey | None,
        webhook_url: str | None,
    ) -> tuple[Job, bool]:
        """Accept the request that `resolve_request` returns with its model name, within the limits. Raises as `create`."""
        tenant = caller.tenant
        found = await asyncio.to_thread(self._admission.find, tenant, idempotency)
        if found is not None:
            return found, False
        with self._admission.examine() as number:
            # before any slow operation
            await asyncio.to_thread(self._admission.check, tenant, caller.key, number)
            try:
                if webhook_url is not None:
                    await self._webhooks.check(webhook_url, tenant)
                request, model = await resolve_request()
            except (SystemFailure, Throttled):
                raise
            except UserError:
                await asyncio.to_thread(self._admission.charge, tenant, caller.key)
                raise
        job, is_new = await asyncio.to_thread(
            self._admission.admit,
            request.model_dump(mode="json"),
            tenant=tenant,
            key=caller.key,
            idempotency=idempotency,
            model=model,
            weight=PRIORITY_WEIGHT**request.priority,
            webhook_url=webhook_url,
        )
        if is_new:
            self.metrics.accepted(names_of(use for use in request.adapters if use.owner is None))
            self._dispatcher.notify()
        return job, is_new

    async def _resolve(self, body: CreateVideo, caller: Caller) -> tuple[VideoRequest, str]:
        """The resolved request, checked by an engine, and its model name. Raises UserError."""
        if body.priority > caller.max_priority:
            raise Forbidden(
                f"priority {body.priority} is not allowed for this API key; give at most {caller.max_priority}.",
                code="priority_not_allowed",
            )
        info = await self.info()
        if parse_model(body.model, info.name) or body.lora or body.noise_prior:
            request, model = await self.catalogue.resolve(caller.tenant, body, info)
        else:  # needs no registry
            request, model = resolve(body, info, None)
        deadline = None if body.deadline is None else time.time() + body.deadline
        scheduled = {"tenant": caller.tenant, "priority": body.priority, "deadline": deadline}
        return await self._checked(request.model_copy(update=scheduled), info), model

    async def _resolve_remix(self, job: Job, body: RemixVideo, caller: Caller) -> tuple[VideoRequest, str]:
        """The request of a remix, checked by an engine, and its model name. Raises UserError."""
        before, info = request_of(job), await self.info()
        if before.foundation not in (None, info.fingerprint):
            raise Conflict(
                f"video {job.id} was made by another foundation ({before.foundation[:12]}) than the one served here "
                f"({info.name}, {info.fingerprint[:12]}); request a new video.",
                code="foundation_mismatch",
            )
        changed = {
            "prompt": body.prompt,
            "tenant": caller.tenant,
            "foundation": info.fingerprint,
            "priority": min(before.priority, caller.max_priority),
            "deadline": None,
            "remixed_from": job.id,
            "learns": bool(before.awaits),
        }
        await self.catalogue.check_usable(before.version_files, caller.tenant)
        request = check_resolved(before.model_copy(update=changed), info)
        return await self._checked(request, info), job.model

    async def _checked(self, request: VideoRequest, info: FoundationInfo) -> VideoRequest:
        """The request with its warnings, after an engine has checked it. Raises UserError."""
        try:
            async with asyncio.timeout(ENGINE_TIMEOUT):
                refused = await self.engine.check(request)
                long = texts_to_check(request, info)
                unread = await self.engine.unread(long) if long and refused is None else []
        except EngineLost:
            raise engine_unavailable() from None
        except TimeoutError:
            raise (
                adapters_late(ENGINE_TIMEOUT) if request.needs_registry else engine_unavailable()
            ) from None
        if refused is not None and isinstance(refused.error, FoundationChanged):
            self._info = None  # the next request asks again
        raise_refusal(refused)
        warnings = (*request.warnings, *(text for text in unread if text))
        return request.model_copy(update={"warnings": warnings})

    def _waiting(self) -> list[tuple[str, str]]:
        """(id, tenant) of the jobs that wait for this server's foundation, in order of their turns."""
        return self._claims.waiting(self._info.fingerprint if self._info else None)

    async def with_positions(self, jobs: Sequence[Job]) -> list[tuple[Job, int | None]]:
        """The jobs, each with the number of jobs before it, up to half a second old (None: not queued)."""
        positions = await self._places.of(jobs)
        return [(job, positions.get(job.id)) for job in jobs]

    async def videos(self, jobs: Sequence[Job]) -> list[Video]:
        """Jobs as the API shows them to their owner."""
        return [video_of(job, position) for job, position in await self.with_positions(jobs)]

    async def get(self, id: str, tenant: str) -> Job:
        return await asyncio.to_thread(self.store.get, id, tenant=tenant)

    async def page(self, tenant: str, after: str | None, limit: int, order: str) -> tuple[list[Job], bool]:
        return await asyncio.to_thread(self.store.page, tenant=tenant, after=after, limit=limit, order=order)

    async def cancel(self, id: str, tenant: str) -> Job:
        """Cancel a job. Raises Conflict if it has ended otherwise (cancelling twice is no error)."""
        job = await self.get(id, tenant)
        try:
            await asyncio.to_thread(self.store.cancel, id)
        except IllegalTransition:
            job = await self.get(id, tenant)
            if job.state != "cancelled":
                raise Conflict(
                    f"video {id} has ended ({job.state}) and cannot be cancelled; DELETE removes it.",
                    code="video_ended",
                ) from None
        else:
            self._ended(CANCELLED, {})
        await self._dispatcher.cancel(id)
        self.changes.notify(id)
        return await self.get(id, tenant)

    async def delete(self, id: str, tenant: str) -> None:
        """Remove a job and its video; cancels an unfinished job first."""
        job = await self.get(id, tenant)
        if job.state not in FINAL:
            with contextlib.suppress(UserError):  # it ended meanwhile
                await self.cancel(id, tenant)
            job = await self.get(id, tenant)
        # Even if the row has no result: the video may have been stored while the database was unreachable.
        await RESULTS.run(self._results.delete, result_key(id))
        await asyncio.to_thread(self.store.delete, id)
        self.changes.notify(id)

    async def content(self, id: str, tenant: str) -> bytes:
        """The mp4. Raises Conflict if the job has none (yet), NotFound if it has expired."""
        job = await self.get(id, tenant)
        if job.state != COMPLETED:
            hint = (
                "poll GET /v1/videos/{id}"
                if job.state not in FINAL
                else (job.error_message or "it was cancelled")
            )
            raise Conflict(
                f"video {id} has no content: it is {status_of(job)} ({hint}).",
                code="video_not_completed",
            )
        if job.result_key is not None:
            with contextlib.suppress(ObjectNotFound):
                return await RESULTS.run(self._stored, job)
        raise NotFound(
            f"video {id} has expired; request it again with seed {request_of(job).seed}.",
            code="video_expired",
        )

    def _stored(self, job: Job) -> bytes:
        """Read a job's video.

        Raises:
            ObjectNotFound: it has expired or was deleted.
            StorageFault: it has not expired, but the storage is empty or missing, so it is probably not mounted.
        """
        try:
            return self._results.get(result_key(job.id))  # the row's own key is not trusted
        except ObjectNotFound as error:
            expired = job.expires_at is not None and job.expires_at <= time.time()
            if expired or (self._results.root_exists() and self._results.holds("")):
                raise
            log.error(
                "%s is empty or missing, so video %s cannot be read; is it mounted?",
                self._results.uri,
                job.id,
            )
            raise StorageFault(VIDEOS) from error

    async def usage(self, tenant: str | None, first: str, last: str) -> list[UsageTotal]:
        """What a tenant (None: each of all) used by day, kind and model."""
        return await asyncio.to_thread(self._usage.by_day, tenant, first, last)

    async def stored(self, tenant: str) -> int:
        """Bytes that a tenant stores now: videos and concepts. Raises Unavailable if the registry is slow."""

        def videos() -> int:
            with self.store.database.sessions() as session:
                return stored_bytes(session, tenant)

        row = await asyncio.to_thread(self.tenants.find, tenant)
        await self.catalogue.list_anew(tenant)
        concepts = self.catalogue.own_bytes(row.id) if row is not None else 0
        return await asyncio.to_thread(videos) + concepts

    async def exposition(self) -> bytes:
        """The metrics in Prometheus's text format, with the current jobs and queue."""
        counts = await asyncio.to_thread(self.store.count)
        self.metrics.queue(counts, await asyncio.to_thread(self.store.oldest_queued))
        self.metrics.usage(await asyncio.to_thread(self._usage.totals))
        self.metrics.streams.set(self.streams.open)
        if self.trainings is not None:
            for state, number in (await asyncio.to_thread(self.trainings.store.count)).items():
                self.metrics.trainings.labels(state).set(number)
        return self.metrics.exposition()


def max_in_flight(config: ServeConfig, engines: int) -> int:
    """Maximum jobs in engines, for all ingresses. Others wait in the store, which is fair and durable."""
    return 4 * config.max_batch * max(1, engines)
