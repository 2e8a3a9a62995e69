"""The operations on trainings, without HTTP's routes, and their background task."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from fastapi import Request
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from infra.errors import Conflict, NotFound, UserError
from infra.storage import Storage
from serving.config import ServeConfig
from serving.http.bodies import validated
from serving.http.event_stream import HEARTBEAT, POLL, RETRY, Changes, Streams
from serving.http.learning.answers import event_of
from serving.http.learning.characters import CharacterForm
from serving.http.learning.file_service import FileService
from serving.jobs.admission import IdempotencyKey
from serving.jobs.database import Database
from serving.jobs.training_tables import StoredFile, Training, TrainingEvent
from serving.requests import FoundationInfo
from serving.tenants.tenants import Tenants
from serving.threads import UPLOADS
from serving.trainings.desk import Desk
from serving.trainings.figures import Figures
from serving.trainings.request import TrainingRequest, resolve_training
from serving.trainings.schemas import CreateTraining
from serving.trainings.store import FINAL, TrainingStore
from serving.trainings.trainer import Order, Trainer

EVENTS_PER_LOOK = 200


class TrainingService:
    """The files and trainings of one server.

    Args:
        results: holds clips.
        info: returns what is served; raises Unavailable if no engine answers.
        check_webhook: raises UserError for a URL that no webhook of a tenant may call.
        has: whether a tenant has a concept of its own of this name.
    """

    def __init__(
        self,
        config: ServeConfig,
        trainer: Trainer,
        database: Database,
        results: Storage,
        filing: FileService,
        info: Callable[[], Awaitable[FoundationInfo]],
        streams: Streams,
        changes: Changes,
        check_webhook: Callable[[str, str], Awaitable[None]],
        has: Callable[[str, str], Awaitable[bool]],
    ) -> None:
        self._check_webhook, self._has = check_webhook, has
        self._trainer, self._info = trainer, info
        self.streams, self._changes = streams, changes
        self.filing = filing
        self.store = TrainingStore(database, config.max_trainings)
        self.figures = Figures(database)
        self._tenants = Tenants(database)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.desk = Desk(
            self.store,
            self.filing.files,
            trainer,
            results,
            Path(config.data_dir, "validations").absolute(),
            served=self._served,
            ttl=config.job_ttl,
            changed=self._changed,
        )

    async def _served(self) -> str:
        return (await self._info()).fingerprint

    async def run(self) -> None:
        """Bring trainings to their end until cancelled."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self.filing.remove_stale)
        await self.desk.run()

    def _changed(self, id: str) -> None:
        """Wake whoever waits for a change of a training. Called from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changes.notify, id)

    # ------------------------------------------------------------------ trainings
    async def create(
        self, body: CreateTraining, tenant: str, idempotency_key: str | None = None
    ) -> tuple[Training, bool]:
        """Accept a training. Returns it and whether it is new; a repeated request with the same key is not.

        Raises UserError for an impossible request, and Unavailable without an engine.
        """
        idempotency = IdempotencyKey.of(idempotency_key, body.model_dump(mode="json"))
        found = await asyncio.to_thread(self.store.find, tenant, idempotency)
        if found is not None:
            return found, False
        info = await self._info()
        request = resolve_training(body, info.name)
        await self._training_file(request.training_file, tenant)
        if body.webhook_url is not None:
            await self._check_webhook(body.webhook_url, tenant)
        return await self.begin(request, tenant, info, idempotency, body.webhook_url)

    async def begin(
        self,
        request: TrainingRequest,
        tenant: str,
        info: FoundationInfo,
        idempotency: IdempotencyKey | None = None,
        webhook_url: str | None = None,
    ) -> tuple[Training, bool]:
        """Accept a training whose file is there. Returns it and whether it is new. Raises UserError."""
        concept = await asyncio.to_thread(self._tenants.registry_name, tenant, request.suffix)
        order = Order(
            "", concept, info.fingerprint, request.method, request.settings, request.seed, request.caption
        )
        await UPLOADS.run(self._trainer.check, order)
        training, is_new = await asyncio.to_thread(
            self.store.admit,
            request,
            tenant=tenant,
            concept=concept,
            foundation=info.fingerprint,
            idempotency=idempotency,
            webhook_url=webhook_url,
        )
        if is_new:
            self.desk.notify()
        return training, is_new

    async def _training_file(self, id: str, tenant: str) -> StoredFile:
        try:
            return await self.filing.file(id, tenant)
        except NotFound as error:
            raise error.reworded(f"training_file: {error.message}") from None

    async def unfinished(self, tenant: str, suffix: str) -> Training | None:
        """The tenant's unfinished training of a concept, if there is one."""
        concept = await asyncio.to_thread(self._tenants.registry_name, tenant, suffix)
        return await asyncio.to_thread(self.store.unfinished, tenant, concept)

    async def create_character(
        self, request: Request, tenant: str, idempotency_key: str | None = None, **settings: int
    ) -> tuple[Training, bool]:
        """Have a character learned from the clip of a form. Returns its training, and whether it is new.

        Args:
            settings: of the training.

        Raises UserError, and HTTPException as `FileService.upload`.
        """
        info = await self._info()
        learned = "fine-tune", None
        file, fields = await self.filing.receive(request, tenant, "video", lambda fields: learned)
        kept = False
        try:
            given = validated(CharacterForm, fields)
            idempotency = IdempotencyKey.of(idempotency_key, {**given.model_dump(), "video": file.sha256})
            found = await asyncio.to_thread(self.store.find, tenant, idempotency)
            if found is not None:
                return found, False
            asked = given.training(file.id, settings)
            await self._check_new(asked, tenant)
            training, kept = await self.begin(asked, tenant, info, idempotency)
            return training, kept
        finally:
            if not kept:
                await UPLOADS.run(self.filing.files.remove, file.id)

    async def _check_new(self, request: TrainingRequest, tenant: str) -> None:
        """Raise Conflict if a concept with the name of a new character is there, or is being learned."""
        there = await self.unfinished(tenant, request.suffix) is not None
        if there or await self._has(tenant, request.suffix):
            raise Conflict(
                f"a character or concept {request.suffix!r} exists; give another name, or delete it "
                f"(DELETE /v1/models/foundation:{request.suffix}).",
                code="character_exists",
            )

    async def training(self, id: str, tenant: str) -> Training:
        return await asyncio.to_thread(self.store.get, id, tenant=tenant)

    async def page(self, tenant: str, after: str | None, limit: int) -> tuple[list[Training], bool]:
        return await asyncio.to_thread(self.store.page, tenant, after=after, limit=limit)

    async def event_page(
        self, training: Training, after: int | None, limit: int
    ) -> tuple[list[TrainingEvent], bool]:
        return await asyncio.to_thread(self.store.events, training.id, after=after, limit=limit)

    async def cancel(self, id: str, tenant: str) -> Training:
        """Cancel a training. Raises NotFound, and Conflict if it has ended otherwise."""
        return self._told(await asyncio.to_thread(self.store.cancel, id, tenant))

    async def pause(self, id: str, tenant: str) -> Training:
        """Let a training rest at its next checkpoint. Raises NotFound, and Conflict if it cannot be paused."""
        return self._told(await asyncio.to_thread(self.store.pause, id, tenant))

    async def resume(self, id: str, tenant: str) -> Training:
        """Let a paused training go on. Raises NotFound, and Conflict if it has ended."""
        return self._told(await asyncio.to_thread(self.store.resume, id, tenant))

    def _told(self, training: Training) -> Training:
        """Tell whoever follows a training, and the desk, that it has changed."""
        self._changes.notify(training.id)
        self.desk.notify()
        return training

    def erase(self, tenant: str, id: str) -> bool:
        """Erase the files and trainings of a tenant (its name and id), as far as can be done now; may be repeated.

        Blocks. Returns whether nothing is left.
        """
        self.filing.erase(tenant, id)
        if not self.store.erase(tenant):  # some are still being stopped; the desk cleans up after them
            return False
        self._trainer.forget(f"t-{id}.")
        return True

    async def events(self, training: Training, seen: int | None) -> AsyncIterator[bytes]:
        """Server-sent events of a training, from the one after `seen`, until it ends."""
        quiet = time.monotonic()
        yield format_sse_event(retry=RETRY)
        with self._changes.of(training.id) as changed:
            while True:
                changed.clear()
                try:
                    # The state is read first: an event that is written with the end is then found in this look.
                    state = (await self.training(training.id, training.tenant)).state
                except UserError:
                    return  # it was removed
                found, more = await asyncio.to_thread(
                    self.store.events, training.id, after=seen or 0, limit=EVENTS_PER_LOOK, newest=False
                )
                for one in found:
                    seen, quiet = one.place, time.monotonic()
                    data = event_of(one).model_dump_json()
                    yield format_sse_event(event="fine_tuning.job.event", id=str(seen), data_str=data)
                if more:
                    continue
                if state in FINAL:
                    return
                if time.monotonic() - quiet >= HEARTBEAT:
                    quiet = time.monotonic()
                    yield KEEPALIVE_COMMENT
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await changed.wait()
