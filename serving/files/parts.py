"""Files that arrive in parts, in any order, by any ingress, with pauses of up to an hour between two parts.

An upload is a reserved file (`serving.files.store`) whose size, name and purpose are known from the beginning. Its parts are
objects of their own until they are put together. A part may have the sender's number: sent again with the same
bytes it is the same part, and with others it is refused.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from infra.errors import Conflict, InvalidInput, NotFound
from infra.storage import Storage
from infra.storage.objects import sha256_file
from serving.files.store import KEEPING, STORED, UPLOAD_SECONDS, UPLOADING, FileStore, parts_key
from serving.jobs.database import Database
from serving.jobs.training_tables import StoredFile, UploadPart

ID = re.compile("upload_[0-9a-f]{32}")
PART = 64 << 20  # largest number of bytes of a part
MAX_PARTS = 1000


def upload_of(file: str) -> str:
    """The id of the upload that becomes this file."""
    return file.replace("file-", "upload_", 1)


class Uploads:
    """Uploads in parts. Thread-safe; several processes may share the database and the storage."""

    def __init__(self, database: Database, storage: Storage, files: FileStore) -> None:
        self._database, self._session, self._storage, self._files = (
            database,
            database.sessions,
            storage,
            files,
        )

    def get(self, id: str, tenant: str) -> StoredFile:
        """The file that an upload is to become, or has become. Raises NotFound."""
        file = self._files.row(id.replace("upload_", "file-", 1)) if ID.fullmatch(id) else None
        alive = file is not None and file.state in (UPLOADING, KEEPING, STORED) and file.filename
        late = file is not None and file.expires_at is not None and file.expires_at <= time.time()
        if file is None or file.tenant != tenant or not alive or late:
            raise NotFound(
                f"there is no upload {id[:80]!r}; it was cancelled, it expired an hour after its last part, or it is another's.",
                code="upload_not_found",
            )
        return file

    def open(self, id: str, tenant: str) -> StoredFile:
        """The file of an upload that takes parts. Raises NotFound, and Conflict if it is complete."""
        file = self.get(id, tenant)
        if file.state != UPLOADING:
            raise Conflict(f"upload {id} is complete; its file is {file.id}.", code="upload_completed")
        return file

    def parts(self, file: StoredFile) -> list[UploadPart]:
        """The parts of a file that have arrived, in order of arrival."""
        with self._session() as session:
            query = select(UploadPart).where(UploadPart.file == file.id).order_by(UploadPart.number)
            return list(session.scalars(query))

    def add(self, file: StoredFile, path: Path, place: int | None, expected: str | None) -> UploadPart:
        """Store a part. Returns it, or the one that was sent before with the same number and bytes.

        Args:
            place: the sender's number for it.
            expected: SHA-256 of its bytes, as the sender says.

        Raises:
            InvalidInput: other bytes than the sender says, or more than the upload has.
            Conflict: a part with this number was sent before with other bytes, or the upload has ended meanwhile.
        """
        sha256, size = sha256_file(path), path.stat().st_size
        if expected is not None and expected != sha256:
            raise InvalidInput(
                f"the part's bytes hash to {sha256[:12]}..., not to {expected[:12]}...; send it again.",
                code="checksum_mismatch",
            )
        with self._session() as session:
            known = self._known(session, file, place, sha256)
        if known is not None:
            return known
        id = f"part_{secrets.token_hex(16)}"
        self._storage.put_file(f"{parts_key(file.id)}{id}", path)
        part = UploadPart(id=id, file=file.id, place=place, size=size, sha256=sha256, created_at=time.time())
        try:
            with self._database.exclusive() as session:
                known = self._known(session, file, place, sha256)
                if known is None:
                    self._check_room(session, file, size)
                    session.add(part)
        except Exception:
            self._storage.delete(f"{parts_key(file.id)}{id}")
            raise
        if known is not None:
            self._storage.delete(f"{parts_key(file.id)}{id}")
        return known or part

    def _known(self, session: Session, file: StoredFile, place: int | None, sha256: str) -> UploadPart | None:
        if place is None:
            return None
        same = (UploadPart.file == file.id, UploadPart.place == place)
        known = session.scalar(select(UploadPart).where(*same))
        if known is not None and known.sha256 != sha256:
            raise Conflict(
                f"part {place} was sent before with other bytes ({known.sha256[:12]}...); cancel the upload to begin anew.",
                code="part_conflict",
            )
        return known

    def _check_room(self, session: Session, file: StoredFile, size: int) -> None:
        """Raise unless the upload goes on and has room for another part; its hour begins again."""
        mine = select(func.count(), func.coalesce(func.sum(UploadPart.size), 0))
        count, used = session.execute(mine.where(UploadPart.file == file.id)).one().tuple()
        if int(used) + size > file.size or count >= MAX_PARTS:
            raise InvalidInput(
                f"the parts have {int(used) + size} bytes together, but the upload was announced with {file.size}; or there are "
                f"more than {MAX_PARTS} parts.",
                code="too_many_bytes",
            )
        goes_on = (StoredFile.id == file.id, StoredFile.state == UPLOADING)
        longer = update(StoredFile).where(*goes_on).values(expires_at=time.time() + UPLOAD_SECONDS)
        if session.execute(longer.returning(StoredFile.id)).one_or_none() is None:
            raise Conflict("the upload has ended meanwhile; begin another.", code="upload_ended")

    def complete(self, file: StoredFile, ids: Sequence[str], md5: str | None, path: Path) -> StoredFile:
        """Put the parts together in this order, as the file. `path`: local, to work in.

        Raises:
            InvalidInput: parts that are not the upload's, or other bytes than were announced.
            Conflict: the upload has ended meanwhile.
        """
        known = {part.id: part for part in self.parts(file)}
        if len(set(ids)) != len(ids) or (unknown := [id for id in ids if id not in known]):
            said = (
                "a part is named twice"
                if len(set(ids)) != len(ids)
                else f"{unknown[0][:80]!r} is none of its parts"
            )
            raise InvalidInput(f"part_ids: {said}; name each part of the upload once.", code="unknown_part")
        size = sum(known[id].size for id in ids)
        if size != file.size:
            raise InvalidInput(
                f"the parts have {size} bytes together, but the upload was announced with {file.size}; send what is missing.",
                code="incomplete_upload",
            )
        with path.open("wb") as target:
            for id in ids:
                piece = path.with_name(f"{path.name}.part")
                try:
                    self._storage.get_file(f"{parts_key(file.id)}{id}", piece)
                    with piece.open("rb") as source:
                        shutil.copyfileobj(source, target, 1 << 20)
                finally:
                    piece.unlink(missing_ok=True)
        if md5 is not None:
            with path.open("rb") as made:
                digest = hashlib.file_digest(made, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            if digest != md5.lower():
                raise InvalidInput(
                    "md5: the parts in this order have another checksum; name them in the file's order, or send them again.",
                    code="checksum_mismatch",
                )
        expires_at = None if file.lifetime is None else time.time() + file.lifetime
        kept = self._files.keep(
            file.id, path, filename=file.filename, purpose=file.purpose, expires_at=expires_at
        )
        self._files.drop_parts(file.id)
        return kept
