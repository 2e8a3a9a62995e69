"""What videos show besides their prompt: an image, characters. Their appearance is learned once, by a training.

    learning -> queued -> ...       a job whose appearances are still being learned (`serving.jobs.jobs`)

A model that begins videos with an image takes it as it is. For any other, the image's appearance is a concept of the
tenant's own, named by the hash of the image and of what it is said to show. If there is none yet, a training is begun, and the
job waits for it. So it does for a character that is still being learned.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request

from datasets.ingest.confined_still import still_confined
from datasets.ingest.image import check_covers
from datasets.video.still import Still
from infra.errors import Conflict, InvalidInput, NotFound, StorageError, SystemFailure, UserError
from infra.storage.objects import sha256_file
from models.generation import APPEARANCE_SCALE, InputImage
from serving.config import ServeConfig
from serving.http.catalogue import Catalogue
from serving.http.learning.characters import training_id
from serving.http.learning.file_service import FileService
from serving.http.learning.service import TrainingService
from serving.jobs.database import Job
from serving.jobs.jobs import HALF, IllegalTransition, JobStore
from serving.jobs.training_tables import Training
from serving.requests import FoundationInfo, VideoRequest, request_of, resolve_adapters
from serving.schemas import AdapterUsed, Awaited, CharacterUse, CreateVideo, ImageUsed, LoraPath, LoraUse
from serving.threads import IMAGES, UPLOADS
from serving.trainings.names import model_of
from serving.trainings.request import TrainingRequest, asked
from serving.trainings.store import CANCELLED, FAILED, FINAL, SUCCEEDED

log = logging.getLogger(__name__)
POLL = 1.0  # seconds between looks at the trainings that jobs wait for
SWEEP = 30.0  # seconds between searches for files that expired, on a server without trainings
SMALLEST = 16  # pixels of a side of an image that a video begins with
KEPT_SECONDS = 7 * 86_400.0  # for which an image that came with a request is kept
SPATIAL: LoraPath = "spatial"


@dataclass(frozen=True)
class Given:
    """An image of a request: its file, and what it is called."""

    path: Path
    filename: str
    file: str | None  # id, if it is a stored file already
    sha256: str


class References:
    """The images and characters of one server's videos.

    Args:
        trainings: None: this server learns nothing.
        queued: called with the id of each job that is queued now.
        changed: called with the id of each job whose row has changed.
    """

    def __init__(
        self,
        config: ServeConfig,
        filing: FileService,
        trainings: TrainingService | None,
        catalogue: Catalogue,
        jobs: JobStore,
        queued: Callable[[str], None],
        changed: Callable[[str], None],
    ) -> None:
        self._steps, self._filing, self._trainings = config.reference_steps, filing, trainings
        self._catalogue, self._jobs = catalogue, jobs
        self._queued, self._changed = queued, changed

    def local_file(self) -> AbstractContextManager[Path]:
        """A path on the local disk for as long as the block lasts."""
        return self._filing.local_file()

    async def create_character(
        self, request: Request, tenant: str, idempotency_key: str | None
    ) -> tuple[Training, bool]:
        """Have a character learned. Returns its training, and whether it is new."""
        if self._trainings is None:
            raise NotFound(
                "this server learns no characters; its operator starts it with --train-lanes.",
                code="training_off",
            )
        return await self._trainings.create_character(request, tenant, idempotency_key, **self.settings)

    async def character(self, id: str, tenant: str) -> Training:
        """The training of a character. Raises NotFound."""
        training = training_id(id)
        if training is not None and self._trainings is not None:
            with suppress(NotFound):
                found = await self._trainings.training(training, tenant)
                if asked(found).character is not None:
                    return found
        raise NotFound(f"there is no character {id[:80]!r}.", code="character_not_found")

    # ------------------------------------------------------------------ accepting
    async def given(
        self, body: CreateVideo, sent: tuple[Path, str] | None, tenant: str, stack: AsyncExitStack
    ) -> Given | None:
        """The image of a request, on the local disk while `stack` is open. Raises NotFound for a file that is not there.

        Args:
            sent: the image that came with the request, and its name.
        """
        if body.input_reference is None:
            return None
        id = body.input_reference.file_id
        if id is None:
            assert sent is not None, "a request without a file brings its image"
            return Given(*sent, None, await asyncio.to_thread(sha256_file, sent[0]))
        path = stack.enter_context(self._filing.local_file())
        try:
            file = await self._filing.file(id, tenant)
            await UPLOADS.run(self._filing.files.fetch, file, path)
        except NotFound as error:
            raise error.reworded(f"input_reference: {error.message}") from None
        return Given(path, file.filename, id, await asyncio.to_thread(sha256_file, path))

    async def attach(
        self,
        request: VideoRequest,
        body: CreateVideo,
        image: Given | None,
        tenant: str,
        info: FoundationInfo,
        undo: AsyncExitStack,
    ) -> VideoRequest:
        """The request with its image and characters, or with what it waits for.

        Args:
            undo: gets what takes back whatever is begun here, if the job is not accepted after all.

        Raises UserError: an image that cannot be used, a character that is not there, too many appearances.
        """
        if info.takes_image and image is None:
            raise InvalidInput(
                f"{info.name} makes videos that begin with an image, and none was given; give `input_reference`.",
                code="invalid_image",
            )
        parts = [await self._character(one, tenant, info) for one in body.characters]
        notes: tuple[str, ...] = ()
        if image is not None:
            still = await IMAGES.run(still_confined, image.path, "input_reference")
            notes = still.notes
            if info.takes_image:
                request = await self._begin_with(request, still, image, tenant, undo)
            else:
                self._check_size(still, info)
                check_room(request, [*parts, [Awaited(training="", what="")]], info)
                parts.append(await self._appearance(body, image, tenant, info, undo))
        check_room(request, parts, info)
        found = [one for part in parts for one in part if isinstance(one, AdapterUsed)]
        awaits = [one for part in parts for one in part if isinstance(one, Awaited)]
        changes = {"adapters": (*request.adapters, *found), "awaits": tuple(awaits), "learns": bool(awaits)}
        return request.model_copy(update={**changes, "warnings": (*request.warnings, *notes)})

    def _check_size(self, still: Still, info: FoundationInfo) -> None:
        if self._trainings is None:
            raise InvalidInput(
                f"{info.name} makes videos from text alone, and this server learns nothing (--train-lanes), so "
                "`input_reference` cannot be used here; leave it out.",
                code="reference_not_supported",
            )
        check_covers(still, info.height, info.width, "input_reference")

    async def _begin_with(
        self, request: VideoRequest, still: Still, image: Given, tenant: str, undo: AsyncExitStack
    ) -> VideoRequest:
        """The request with the image that its video begins with, which is kept as a file of the tenant."""
        check_covers(still, SMALLEST, SMALLEST, "input_reference")
        id = image.file
        if id is None:
            id = await self._keep(image, tenant, undo, expires_at=time.time() + KEPT_SECONDS)
        pixels = hashlib.sha256(still.picture_HWC.tobytes()).hexdigest()
        return request.model_copy(update={"image": ImageUsed(source=pixels, file=id)})

    async def _keep(
        self, image: Given, tenant: str, undo: AsyncExitStack, *, expires_at: float | None
    ) -> str:
        """Store an image as a file of the tenant. Returns its id."""
        about = {"filename": image.filename, "purpose": "vision", "expires_at": expires_at}
        file = await self._filing.store(image.path, tenant, **about)
        undo.push_async_callback(UPLOADS.run, self._filing.files.remove, file.id)
        return file.id

    async def _character(
        self, use: CharacterUse, tenant: str, info: FoundationInfo
    ) -> list[AdapterUsed | Awaited]:
        """A character's adapter, or the training that a job waits for. Raises NotFound, and Conflict if it has failed."""
        training = await self.character(use.id, tenant)
        name = asked(training).character
        if training.state in (FAILED, CANCELLED):
            raise Conflict(
                f"character {name!r} was not learned ({training.error_message or training.state}); create it again.",
                code="character_failed",
            )
        if training.state == SUCCEEDED:
            return list(await self._learned(training, tenant, info))
        return [Awaited(training=training.id, what=f"character {name!r}")]

    async def _appearance(
        self, body: CreateVideo, image: Given, tenant: str, info: FoundationInfo, undo: AsyncExitStack
    ) -> list[AdapterUsed | Awaited]:
        """The adapter of an image, or the training that a job waits for, which is begun unless it runs already."""
        assert self._trainings is not None
        assert body.input_reference is not None
        caption = body.input_reference.caption or body.prompt
        suffix = f"image-{hashlib.sha256(f'{image.sha256} {caption}'.encode()).hexdigest()[:32]}"
        with suppress(NotFound, Conflict):  # Conflict: learned for another foundation
            return list(await self._own(suffix, tenant, info))
        training = await self._trainings.unfinished(tenant, suffix)
        if training is None:
            id = image.file or await self._keep(image, tenant, undo, expires_at=None)
            request = TrainingRequest(
                training_file=id,
                suffix=suffix,
                caption=caption,
                seed=0,
                method="appearance",
                settings=self.settings,
                image=True,
                own_file=image.file is None,
            )
            training, is_new = await self._trainings.begin(request, tenant, info)
            if is_new:
                undo.push_async_callback(self._trainings.cancel, training.id, tenant)
        return [Awaited(training=training.id, what="input_reference")]

    @property
    def settings(self) -> dict[str, int]:
        """The settings of trainings that learn an image or a character."""
        return {} if self._steps is None else {"steps": self._steps}

    async def _own(self, concept: str, tenant: str, info: FoundationInfo) -> list[AdapterUsed]:
        """The appearance of a concept of the tenant's own. Raises NotFound."""

        def find() -> list[AdapterUsed]:
            registry = self._catalogue.registry_of(tenant)
            found = resolve_adapters(
                LoraUse(name=concept, path=SPATIAL, scale=APPEARANCE_SCALE), info, registry
            )
            if tenant and found[0].owner != self._catalogue.id_of(tenant):
                raise NotFound(f"there is no concept {concept!r} of your own.", code="concept_not_found")
            return found

        return await self._catalogue.read(tenant, find)

    async def _learned(self, training: Training, tenant: str, info: FoundationInfo) -> list[AdapterUsed]:
        """The appearance that a training has published. Raises NotFound if it was deleted."""
        assert training.version is not None
        name = model_of(training.version).partition(":")[2]
        return await self._own(name, tenant, info)

    async def with_image(self, request: VideoRequest) -> VideoRequest:
        """The request with the pixels of its image. Raises NotFound if the file was deleted."""
        image = request.image
        assert isinstance(image, ImageUsed)
        with self._filing.local_file() as path:
            try:
                file = await self._filing.file(image.file, request.tenant)
                await UPLOADS.run(self._filing.files.fetch, file, path)
            except NotFound:
                raise NotFound(
                    "the image of this video was deleted, or has expired; send the request with the image again.",
                    code="image_gone",
                ) from None
            still = await IMAGES.run(still_confined, path, "input_reference")
        given = InputImage(pixels_HWC=still.picture_HWC, source=image.source)
        return request.model_copy(update={"image": given})

    # ------------------------------------------------------------------- waiting
    async def run(self, info: Callable[[], FoundationInfo | None]) -> None:
        """Queue jobs when what they wait for is learned, until cancelled.

        Args:
            info: returns what is served, if that is known.
        """
        swept = time.monotonic()
        while True:
            try:
                if (served := info()) is not None and self._trainings is not None:
                    for job in await asyncio.to_thread(self._jobs.learning, served.fingerprint):
                        await self._look(job, served)
                elif self._trainings is None and time.monotonic() - swept > SWEEP:
                    swept = time.monotonic()
                    await UPLOADS.run(self._filing.files.sweep)
            except Exception:  # a storage or the database is away for a moment; the next round retries
                log.exception("jobs that wait for an appearance cannot be looked at")
            await asyncio.sleep(POLL)

    async def _look(self, job: Job, info: FoundationInfo) -> None:
        """Queue or fail a waiting job, or note how far its trainings are."""
        assert self._trainings is not None
        try:
            request = request_of(job)
            states = [await self._trainings.training(one.training, job.tenant) for one in request.awaits]
            for one, training in zip(request.awaits, states, strict=True):
                if training.state in (FAILED, CANCELLED):
                    reason = training.error_message or f"its training {training.id} was cancelled."
                    raise Conflict(f"{one.what} was not learned: {reason}", code="reference_failed")
            if not all(training.state in FINAL for training in states):
                await self._note(job, states)
                return
            found = [await self._learned(training, job.tenant, info) for training in states]
        except (SystemFailure, StorageError) as error:
            log.warning("job %s waits: %s", job.id, error.message)
            return
        except UserError as error:
            with suppress(IllegalTransition):  # it was cancelled meanwhile
                await asyncio.to_thread(self._jobs.fail, job.id, code=error.code, message=error.message)
            self._changed(job.id)
            return
        adapters = (*request.adapters, *(use for uses in found for use in uses))
        whole = request.model_copy(update={"adapters": adapters, "awaits": ()})
        if await asyncio.to_thread(self._jobs.learned, job.id, whole.model_dump(mode="json")):
            self._queued(job.id)

    async def _note(self, job: Job, states: list[Training]) -> None:
        done = [training.step / training.steps if training.steps else 0.0 for training in states]
        percent = min(HALF - 1, int(HALF * sum(done) / len(done)))
        if percent != job.progress:
            await asyncio.to_thread(self._jobs.note_learning, job.id, percent)
            self._changed(job.id)


def check_room(request: VideoRequest, parts: list[list[AdapterUsed | Awaited]], info: FoundationInfo) -> None:
    """Raise InvalidInput for more appearances than an engine has slots for."""
    used = {use.sha256 for use in request.adapters if use.path == SPATIAL}
    used |= {one.sha256 if isinstance(one, AdapterUsed) else one.training for part in parts for one in part}
    if len(used) > info.slots.get(SPATIAL, 0):
        raise InvalidInput(
            f"the request combines {len(used)} appearances, and this server has {info.slots.get(SPATIAL, 0)} slots for them; "
            "name fewer.",
            code="too_many_adapters",
        )
