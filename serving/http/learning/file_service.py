"""The operations on files and on uploads in parts, without HTTP's routes."""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from fastapi import Request

from infra.errors import InvalidInput
from infra.storage import Storage
from serving.config import ServeConfig
from serving.files.parts import PART, Uploads
from serving.files.store import STORED, UPLOAD_SECONDS, FileLimits, FileStore
from serving.http.bodies import Bodies
from serving.http.learning.receiving import (
    ENVELOPE,
    FormBounds,
    declared_length,
    receive_form,
    safe_name,
    too_large,
)
from serving.jobs.database import Database
from serving.jobs.training_tables import StoredFile, UploadPart
from serving.threads import UPLOADS
from serving.trainings.schemas import CompleteUpload, CreateUpload

PURPOSES = ("fine-tune", "vision")  # to learn from; images for `input_reference`
SHORTEST, LONGEST = 3600, 30 * 86_400  # seconds that `expires_after` may name, as in OpenAI's API
STALE = 2 * UPLOAD_SECONDS  # seconds after which a file of a broken-off upload is removed from the local disk


class FileService:
    """The files of one server.

    Args:
        results: holds files.
        bodies: limits how many requests of a tenant arrive at once.
    """

    def __init__(self, config: ServeConfig, database: Database, results: Storage, bodies: Bodies) -> None:
        self._bodies = bodies
        limits = FileLimits(config.max_file_bytes, config.files_bytes, config.files_count)
        self.files = FileStore(database, results, limits)
        self.uploads = Uploads(database, results, self.files)
        self._arriving = Path(config.data_dir, "arriving")
        self._arriving.mkdir(parents=True, exist_ok=True, mode=0o700)

    def erase(self, tenant: str, id: str) -> bool:
        """Erase the files of a tenant (its name and id); blocks. Returns whether nothing is left, which is always so."""
        self.files.erase(tenant)
        return True

    def remove_stale(self) -> None:
        """Remove what uploads of a killed ingress left on the local disk."""
        for path in self._arriving.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE:
                    path.unlink()

    async def upload(self, request: Request, tenant: str) -> StoredFile:
        """Store the file of a form, as its fields say. Its declared length is checked before any of it is read.

        Raises UserError, or HTTPException for a body that is too large, too slow, or no form.
        """

        def intent(fields: dict[str, str]) -> tuple[str, float | None]:
            purpose = fields.get("purpose", "")
            if purpose not in PURPOSES:
                raise InvalidInput(
                    f"purpose {purpose[:40]!r}: expected {' or '.join(PURPOSES)}.", code="invalid_purpose"
                )
            seconds = expiry_of(fields)
            return purpose, None if seconds is None else time.time() + seconds

        return (await self.receive(request, tenant, "file", intent))[0]

    async def receive(
        self,
        request: Request,
        tenant: str,
        field: str,
        intent: Callable[[dict[str, str]], tuple[str, float | None]],
    ) -> tuple[StoredFile, dict[str, str]]:
        """Store the file of a form. Returns it and the form's other fields. Raises as `upload`.

        Args:
            field: name of the field with the file.
            intent: returns the file's purpose, and when it is deleted (None: it stays); may raise UserError.
        """
        with self._bodies.one(tenant):
            declared = declared_length(request)
            if declared is not None and declared > self.files.limits.each + ENVELOPE:
                raise too_large(self.files.limits.each)
            id = (await asyncio.to_thread(self.files.reserve, tenant, declared)).id
            try:
                most = self.files.limits.each if declared is None else min(declared, self.files.limits.each)
                with self.local_file() as path:
                    form = await receive_form(request, path, FormBounds(field, most))
                    purpose, expires_at = intent(form.fields)
                    file = await self._keep(
                        id, path, filename=form.filename or "file", purpose=purpose, expires_at=expires_at
                    )
                return file, form.fields
            except BaseException:
                await asyncio.shield(UPLOADS.run(self.files.remove, id))
                raise

    async def store(self, path: Path, tenant: str, **about: Any) -> StoredFile:
        """Store a local file. `about`: filename, purpose and expires_at. Raises Forbidden beyond the tenant's quota."""
        size = await asyncio.to_thread(lambda: path.stat().st_size)
        if size > self.files.limits.each:
            raise too_large(self.files.limits.each)
        id = (await asyncio.to_thread(self.files.reserve, tenant, size)).id
        try:
            return await self._keep(id, path, **about)
        except BaseException:
            await asyncio.shield(UPLOADS.run(self.files.remove, id))
            raise

    async def _keep(self, id: str, path: Path, **about: Any) -> StoredFile:
        if not await asyncio.to_thread(lambda: path.stat().st_size):
            raise InvalidInput("the file is empty; send one with a video in it.", code="empty_file")
        return await UPLOADS.run(self.files.keep, id, path, **about)

    @contextlib.contextmanager
    def local_file(self) -> Iterator[Path]:
        """A path on the local disk for as long as the block lasts."""
        with tempfile.NamedTemporaryFile(dir=self._arriving, delete=False) as file:
            path = Path(file.name)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    # -------------------------------------------------------------------- uploads
    async def begin_upload(self, body: CreateUpload, tenant: str) -> StoredFile:
        """Make room for a file that arrives in parts. Raises Forbidden ("quota_exceeded"), or InvalidInput."""
        if body.bytes > self.files.limits.each:
            raise too_large(self.files.limits.each)
        fields = {
            "filename": safe_name(body.filename),
            "purpose": body.purpose,
            "lifetime": None if body.expires_after is None else float(body.expires_after.seconds),
        }
        return await asyncio.to_thread(lambda: self.files.reserve(tenant, body.bytes, **fields))

    async def upload_row(self, id: str, tenant: str) -> tuple[StoredFile, list[UploadPart]]:
        """An upload and the parts of it that have arrived. Raises NotFound."""
        file = await asyncio.to_thread(self.uploads.get, id, tenant)
        return file, await asyncio.to_thread(self.uploads.parts, file)

    async def add_part(self, id: str, request: Request, tenant: str) -> UploadPart:
        """Store a part of an upload. Raises UserError, or HTTPException as `upload` does."""
        with self._bodies.one(tenant):
            file = await asyncio.to_thread(self.uploads.open, id, tenant)
            declared = declared_length(request)
            if declared is not None and declared > PART + ENVELOPE:
                raise too_large(PART)
            with self.local_file() as path:
                form = await receive_form(request, path, FormBounds("data", min(PART, file.size)))
                place, sha256 = form.fields.get("number"), form.fields.get("sha256")
                if place is not None and not re.fullmatch("[0-9]{1,6}", place):
                    raise InvalidInput(
                        f"number {place[:40]!r}: expected a whole number.", code="invalid_form"
                    )
                number = None if place is None else int(place)
                return await UPLOADS.run(self.uploads.add, file, path, number, sha256)

    async def complete_upload(self, id: str, body: CompleteUpload, tenant: str) -> StoredFile:
        """Put the parts together. Returns the file; of a completed upload, the same again. Raises UserError."""
        file = await asyncio.to_thread(self.uploads.get, id, tenant)
        if file.state == STORED:
            return file
        with self.local_file() as path:
            return await UPLOADS.run(self.uploads.complete, file, body.part_ids, body.md5, path)

    async def cancel_upload(self, id: str, tenant: str) -> StoredFile:
        """Give up an upload. Raises NotFound, and Conflict if it is complete."""
        file = await asyncio.to_thread(self.uploads.open, id, tenant)
        await UPLOADS.run(self.files.remove, file.id)
        return file

    async def file(self, id: str, tenant: str) -> StoredFile:
        return await asyncio.to_thread(self.files.get, id, tenant)

    async def file_page(
        self, tenant: str, after: str | None, limit: int, order: str, purpose: str | None
    ) -> tuple[list[StoredFile], bool]:
        return await asyncio.to_thread(
            self.files.page, tenant, after=after, limit=limit, order=order, purpose=purpose
        )

    async def content(self, id: str, tenant: str) -> tuple[StoredFile, IO[bytes]]:
        """A file and its bytes, as an open file without a name. Raises NotFound."""
        file = await self.file(id, tenant)

        def fetch() -> IO[bytes]:
            with self.local_file() as path:
                self.files.fetch(file, path)
                return path.open("rb")  # stays readable after the path is gone

        return file, await UPLOADS.run(fetch)

    async def delete_file(self, id: str, tenant: str) -> None:
        await self.file(id, tenant)
        await UPLOADS.run(self.files.remove, id)


def expiry_of(fields: dict[str, str]) -> int | None:
    """Seconds after which a file is to be deleted, of a form's `expires_after`; None: it stays. Raises InvalidInput."""
    given = {name: value for name, value in fields.items() if name.startswith("expires_after")}
    if not given:
        return None
    seconds = given.get("expires_after[seconds]", "")
    whole = int(seconds) if seconds.isdecimal() and len(seconds) < 10 else 0
    anchored = given.get("expires_after[anchor]") == "created_at"
    if len(given) != 2 or not anchored or not SHORTEST <= whole <= LONGEST:
        raise InvalidInput(
            f"expires_after: expected anchor created_at and {SHORTEST} to {LONGEST} seconds.",
            code="invalid_expiry",
        )
    return whole
