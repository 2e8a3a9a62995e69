"""The files of tenants: a row each, and the bytes as one object in the results storage.

    uploading -> keeping -> stored -> deleting -> (gone)

A row is written before its object and removed after it, so no object is without a row, whatever dies. Until its last
byte is stored, an upload's row reserves the declared size. A tenant's bytes and files are counted in one exclusive
transaction, so the limits hold across ingresses. `sweep` removes what expired, what was deleted, and uploads that
broke off.
"""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, or_, select, update

from infra.errors import Conflict, Forbidden, NotFound
from infra.storage import Storage
from infra.storage.objects import sha256_file
from serving.jobs.database import Database
from serving.jobs.training_tables import StoredFile, UploadPart

UPLOADING, KEEPING, STORED, DELETING = "uploading", "keeping", "stored", "deleting"
ID = re.compile("file-[0-9a-f]{32}")
UPLOAD_SECONDS = 3600.0  # the longest upload; one that takes longer counts as broken off
PER_SWEEP = 100  # files that one sweep removes
QUIET = {"synchronize_session": False}


@dataclass(frozen=True)
class FileLimits:
    """Bounds of one file and of a tenant's files.

    Args:
        each: bytes of a file.
        total: bytes of a tenant's files.
        count: number of a tenant's files.
    """

    each: int
    total: int
    count: int


def key_of(id: str) -> str:
    """The key of a file's bytes in the results storage."""
    assert ID.fullmatch(id), id
    return f"files/{id}"


def parts_key(id: str) -> str:
    """The prefix of the parts of a file that is being uploaded."""
    assert ID.fullmatch(id), id
    return f"uploads/{id}/"


class FileStore:
    """Files by id. Thread-safe; several processes may share the database and the storage.

    Args:
        storage: holds the bytes.
    """

    def __init__(self, database: Database, storage: Storage, limits: FileLimits) -> None:
        self._database, self._session = database, database.sessions
        self._storage, self.limits = storage, limits

    def reserve(self, tenant: str, declared: int | None, **fields: Any) -> StoredFile:
        """Make room for an upload of `declared` bytes (None: unknown), which counts from now on. `fields`: columns.

        Raises Forbidden ("quota_exceeded"), with nothing written.
        """
        now = time.time()
        with self._database.exclusive() as session:
            mine = select(func.count(), func.coalesce(func.sum(StoredFile.size), 0))
            count, used = session.execute(mine.where(StoredFile.tenant == tenant)).one().tuple()
            free = self.limits.total - int(used)
            if count >= self.limits.count:
                raise Forbidden(
                    f"you have {count} files, the most that are allowed; delete some (DELETE /v1/files/{{id}}).",
                    code="quota_exceeded",
                )
            size = max(1, min(free, self.limits.each)) if declared is None else declared
            if size > free:
                raise Forbidden(
                    f"the upload has {size} bytes, but {max(0, free)} of your {self.limits.total} are free; delete files "
                    "(DELETE /v1/files/{id}).",
                    code="quota_exceeded",
                )
            row = StoredFile(
                id=f"file-{secrets.token_hex(16)}",
                tenant=tenant,
                state=UPLOADING,
                size=size,
                created_at=now,
                expires_at=now + UPLOAD_SECONDS,
                **{"filename": "", "purpose": "", **fields},
            )
            session.add(row)
        return row

    def keep(
        self, id: str, path: Path, *, filename: str, purpose: str, expires_at: float | None
    ) -> StoredFile:
        """Store the bytes of a reserved file and end its upload.

        Raises UserError if the storage refuses them, and Conflict if the upload took too long.
        """
        # Of two that complete it at once, one goes on.
        self._move(id, UPLOADING, state=KEEPING, expires_at=time.time() + UPLOAD_SECONDS)
        try:
            self._storage.put_file(key_of(id), path)
        except BaseException:
            self._move(id, KEEPING, state=UPLOADING)
            raise
        final: dict[str, Any] = {"filename": filename, "purpose": purpose, "expires_at": expires_at}
        final |= {"size": path.stat().st_size, "sha256": sha256_file(path)}
        try:
            return self._move(id, KEEPING, state=STORED, **final)
        except Conflict:  # it was swept or deleted meanwhile, perhaps before its bytes were there
            self._storage.delete(key_of(id))
            raise

    def _move(self, id: str, before: str, **values: Any) -> StoredFile:
        """Change a file that is in a state. Raises Conflict if it is in another."""
        statement = update(StoredFile).where(StoredFile.id == id, StoredFile.state == before)
        with self._session.begin() as session:
            moved = session.scalar(statement.values(**values).returning(StoredFile), execution_options=QUIET)
        if moved is None:
            raise Conflict(
                f"the upload took more than {UPLOAD_SECONDS:.0f} s, was given up, or is being completed by another request.",
                code="upload_ended",
            )
        return moved

    def row(self, id: str) -> StoredFile | None:
        """A file in any state, of any tenant."""
        if not ID.fullmatch(id):  # PostgreSQL would refuse a NUL
            return None
        with self._session() as session:
            return session.scalar(select(StoredFile).where(StoredFile.id == id))

    def get(self, id: str, tenant: str) -> StoredFile:
        """A stored file of the tenant. Raises NotFound."""
        found = self.row(id)
        expired = found is not None and found.expires_at is not None and found.expires_at <= time.time()
        if found is None or found.tenant != tenant or found.state != STORED or expired:
            raise NotFound(f"there is no file {id[:80]!r}; GET /v1/files lists yours.", code="file_not_found")
        return found

    def page(
        self, tenant: str, *, after: str | None, limit: int, order: str, purpose: str | None = None
    ) -> tuple[list[StoredFile], bool]:
        """A page of the tenant's stored files in order of arrival, and whether more follow."""
        alive = or_(StoredFile.expires_at.is_(None), StoredFile.expires_at > time.time())
        query = select(StoredFile).where(StoredFile.tenant == tenant, StoredFile.state == STORED, alive)
        if purpose is not None:
            query = query.where(StoredFile.purpose == purpose)
        if after is not None:
            number = self.get(after, tenant).number
            query = query.where(StoredFile.number < number if order == "desc" else StoredFile.number > number)
        query = query.order_by(StoredFile.number.desc() if order == "desc" else StoredFile.number)
        with self._session() as session:
            files = list(session.scalars(query.limit(limit + 1)))
        return files[:limit], len(files) > limit

    def fetch(self, file: StoredFile, path: Path) -> None:
        """Copy a file's bytes to a local file. Raises NotFound if they were deleted meanwhile."""
        self._storage.get_file(key_of(file.id), path)

    def remove(self, id: str) -> None:
        """Delete a file, whatever its state; no error if it is gone."""
        with self._session.begin() as session:
            session.execute(update(StoredFile).where(StoredFile.id == id).values(state=DELETING))
        self._storage.delete(key_of(id))
        self.drop_parts(id)
        with self._session.begin() as session:
            session.execute(delete(StoredFile).where(StoredFile.id == id))

    def drop_parts(self, id: str) -> None:
        """Remove the parts of a file whose upload has ended."""
        for info in list(self._storage.list(parts_key(id))):
            self._storage.delete(info.key)
        with self._session.begin() as session:
            session.execute(delete(UploadPart).where(UploadPart.file == id))

    def erase(self, tenant: str) -> None:
        """Delete all files of a tenant, in any state."""
        with self._session() as session:
            ids = list(session.scalars(select(StoredFile.id).where(StoredFile.tenant == tenant)))
        for id in ids:
            self.remove(id)

    def sweep(self) -> int:
        """Remove files that expired or were being deleted, and uploads that broke off. Returns their number."""
        late = or_(StoredFile.state == DELETING, StoredFile.expires_at <= time.time())
        with self._session() as session:
            ids = list(session.scalars(select(StoredFile.id).where(late).limit(PER_SWEEP)))
            arriving = select(StoredFile.id).where(StoredFile.state.in_((UPLOADING, KEEPING)))
            left = select(UploadPart.file).where(UploadPart.file.not_in(arriving)).distinct()
            ended = list(session.scalars(left.limit(PER_SWEEP)))
        for id in ids:
            self.remove(id)
        for id in ended:
            self.drop_parts(id)
        return len(ids)
