"""The operations on files and on uploads in parts, without HTTP's routes."""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fastapi import Request

from infra.errors import InvalidInput
from infra.storage import Storage
from serving.config import ServeConfig
from serving.files.parts import PART, Uploads
from serving.files.store import STORED, UPLOAD_SECONDS, FileLimits, FileStore
from serving.http.bodies import Bodies
from serving.http.learning.receiving import (
    ENVELOPE,
    declared_length,
    receive_form,
    safe_name,
    too_large,
)
from serving.jobs.database import Database
from serving.jobs.training_tables import StoredFile, UploadPart
from serving.threads import UPLOADS
from serving.trainings.schemas import CompleteUpload, CreateUpload

PURPOSES = ("fine-tune",)
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

    def remove_stale(self) -> None:
        """Remove what uploads of a killed ingress left on the local disk."""
        for path in self._arriving.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE:
                    path.unlink()

    async def upload(self, request: Request, tenant: str) -> StoredFile:
        """Store the file of a form. Its declared length is checked before any of it is read.

        Raises UserError, or HTTPException for a body that is too large, too slow, or no form.
        """
        with self._bodies.one(tenant):
            declared = declared_length(request)
            if declared is not None and declared > self.files.limits.each + ENVELOPE:
                raise too_large(self.files.limits.each)
            id = (await asyncio.to_thread(self.files.reserve, tenant, declared)).id
            try:
                return await self._receive(request, id, declared)
            except BaseException:
                await asyncio.shield(UPLOADS.run(self.files.remove, id))
                raise

    async def _receive(self, request: Request, id: str, declared: int | None) -> StoredFile:
        most = self.files.limits.each if declared is None else min(declared, self.files.limits.each)
        with self._local_file() as path:
            form = await receive_form(request, path, file="file", most=most)
            purpose = form.fields.get("purpose", "")
            if purpose not in PURPOSES:
                raise InvalidInput(f"purpose {purpose[:40]!r}: expected fine-tune.", code="invalid_purpose")
            seconds = expiry_of(form.fields)
            if not await asyncio.to_thread(lambda: path.stat().st_size):
                raise InvalidInput("the file is empty; send one with a video in it.", code="empty_file")
            return await UPLOADS.run(
                self.files.keep,
                id,
                path,
                filename=form.filename or "file",
                purpose=purpose,
                expires_at=None if seconds is None else time.time() + seconds,
            )

    async def store(self, content: bytes, filename: str, tenant: str, seconds: float) -> StoredFile:
        """Store what this server made for a tenant, for so many seconds. Raises Forbidden beyond the tenant's quota."""
        if len(content) > self.files.limits.each:
            raise too_large(self.files.limits.each)
        id = (await asyncio.to_thread(self.files.reserve, tenant, len(content))).id

        def keep() -> StoredFile:
            with self._local_file() as path:
                path.write_bytes(content)
                named = {"filename": safe_name(filename), "purpose": PURPOSES[0]}
                return self.files.keep(id, path, **named, expires_at=time.time() + seconds)

        try:
            return await UPLOADS.run(keep)
        except BaseException:
            await asyncio.shield(UPLOADS.run(self.files.remove, id))
            raise

    @contextlib.contextmanager
    def _local_file(self) -> Iterator[Path]:
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
            with self._local_file() as path:
                form = await receive_form(request, path, file="data", most=min(PART, file.size))
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
        with self._local_file() as path:
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
            with self._local_file() as path:
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
