"""Object storage for all persistent data: a folder and an S3 bucket behave alike.

    storage = open_storage("s3://bucket/prefix")        # or "file:///data", or a plain path
    storage.put("a/b.json", b"{}")
    storage.put_if_absent("a/b.json", b"other")         # False: it exists

Keys are relative POSIX paths; a key is never also a folder of other keys. Writes are atomic: readers see
an object as it was before or after a write. A folder writes a temporary file beside the target and
renames it; S3 makes an upload visible when it is complete.
Credentials, region and endpoint of S3 come from the usual chain (AWS_* variables, ~/.aws, instance role;
AWS_ENDPOINT_URL or AWS_ENDPOINT_URL_S3 for other servers than Amazon's). Storage objects are pickled by
URI, so every process reads its own credentials.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from infra.errors import UserError
from infra.files import TEMPORARY, atomic_file, explained_os_errors, settle, temporary_beside
from infra.paths import expanded
from infra.storage.base import LOCK, check_key
from infra.storage.base import InvalidKey as InvalidKey
from infra.storage.base import InvalidUri as InvalidUri
from infra.storage.base import ObjectError as ObjectError
from infra.storage.base import ObjectInfo as ObjectInfo
from infra.storage.base import ObjectNotFound as ObjectNotFound
from infra.storage.base import Storage as Storage

if TYPE_CHECKING:
    import pyarrow.fs


def open_storage(uri: str | Path) -> Storage:
    """The storage at `s3://bucket/prefix`, `file:///folder` or a folder's path. Performs no I/O.

    Raises UserError for another scheme or an invalid bucket name.
    """
    text = str(uri)
    if "://" not in text:
        if not text:
            raise InvalidUri("the storage URI is empty; give a folder or s3://bucket/prefix.")
        return FolderStorage(Path(text))
    parts = urlsplit(text)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise InvalidUri(f"storage URI {text}: expected file:///absolute/folder, with three slashes.")
        return FolderStorage(Path(unquote(parts.path)))
    if parts.scheme == "s3":
        from infra.storage.s3 import S3Storage

        bucket, _, prefix = text.removeprefix("s3://").partition("/")
        return S3Storage(bucket, prefix)
    raise InvalidUri(
        f"storage URI {text[:200]}: unknown scheme {parts.scheme}://; give a folder, file:///folder or s3://bucket/prefix."
    )


def bucket_and_key(uri: str) -> tuple[Storage, str]:
    """The bucket and the key of `s3://bucket/key`, another program's object: any valid S3 key is allowed.

    Raises UserError for an invalid bucket name.
    """
    from infra.storage.s3 import S3Storage

    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return S3Storage(bucket, "", any_key=True), key


class FolderStorage(Storage):
    """Objects as files below `root`. A network file system must support atomic rename, link and flock."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(expanded(root)))
        self.uri = str(self.root)

    def __reduce__(self) -> tuple[Any, ...]:
        return FolderStorage, (self.root,)

    def sub(self, prefix: str) -> Storage:
        prefix = prefix.strip("/")
        return FolderStorage(self.root / check_key(prefix)) if prefix else self

    def path(self, key: str) -> Path:
        """The file of a key."""
        return self.root / check_key(key)

    def missing(self, key: str) -> ObjectNotFound:
        return ObjectNotFound(f"{self.path(key)} does not exist; check the name and the folder.")

    def get(self, key: str) -> bytes:
        with explained_os_errors(f"reading {self.path(key)}"):
            try:
                return self.path(key).read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                raise self.missing(key) from None

    def get_file(self, key: str, path: Path) -> None:
        with explained_os_errors(f"reading {self.path(key)}"):
            if not self.path(key).is_file():
                raise self.missing(key)
        with atomic_file(path) as temporary:
            shutil.copyfile(self.path(key), temporary)

    def put(self, key: str, data: bytes) -> None:
        with atomic_file(self.path(key)) as temporary:
            temporary.write_bytes(data)

    def put_file(self, key: str, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"{path} is not a file; it cannot be stored as {key}.", code="file_not_found")
        with atomic_file(self.path(key)) as temporary:
            shutil.copyfile(path, temporary)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self.path(key)
        with temporary_beside(path) as temporary:
            temporary.write_bytes(data)
            settle(temporary)
            try:
                os.link(temporary, path)  # atomic; fails if the target exists
            except FileExistsError:
                return False
        return True

    def replace_if(self, key: str, data: bytes, etag: str | None) -> bool:
        if etag is None:
            return self.put_if_absent(key, data)
        path = self.path(key)
        with explained_os_errors(f"writing {path}"):
            if not path.is_file():
                return False
            with (path.parent / LOCK).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                found = self.head(key)
                if found is None or found.etag != etag:
                    return False
                self.put(key, data)
        return True

    def head(self, key: str) -> ObjectInfo | None:
        with explained_os_errors(f"reading {self.path(key)}"):
            try:
                found = self.path(key).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return describe(key, found) if stat.S_ISREG(found.st_mode) else None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        start = self.root / check_key(prefix.rpartition("/")[0]) if "/" in prefix else self.root
        infos = []
        with explained_os_errors(f"listing {start}"):
            for folder, _, names in os.walk(start, onerror=raise_unless_absent):
                for name in names:
                    path = Path(folder, name)
                    key = path.relative_to(self.root).as_posix()
                    if name.startswith(TEMPORARY) or name == LOCK or not key.startswith(prefix):
                        continue
                    try:
                        infos.append(describe(key, path.stat()))
                    except FileNotFoundError:  # deleted since the walk
                        continue
        yield from sorted(infos, key=lambda info: info.key.encode(errors="surrogateescape"))

    def holds(self, prefix: str) -> bool:
        if prefix and not prefix.endswith("/"):
            return super().holds(prefix)
        folder = self.root / check_key(prefix[:-1]) if prefix else self.root
        with explained_os_errors(f"listing {folder}"):
            try:
                return any(folder.iterdir())
            except (FileNotFoundError, NotADirectoryError):
                return False

    def root_exists(self) -> bool:
        with explained_os_errors(f"reading {self.root}"):
            try:
                return stat.S_ISDIR(self.root.stat().st_mode)
            except (FileNotFoundError, NotADirectoryError):
                return False

    def delete(self, key: str) -> None:
        with explained_os_errors(f"deleting {self.path(key)}"):
            try:
                self.path(key).unlink()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                pass

    def prune(self, folder: str) -> None:
        start = self.path(folder)
        with explained_os_errors(f"deleting {start}"):
            for inner, _, names in os.walk(start, topdown=False, onerror=raise_unless_absent):
                if LOCK in names:
                    Path(inner, LOCK).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # something was put into it meanwhile, or it is gone
                    os.rmdir(inner)

    def arrow(self) -> tuple[pyarrow.fs.FileSystem, str]:
        import pyarrow.fs

        return pyarrow.fs.LocalFileSystem(), str(self.root)


def describe(key: str, found: os.stat_result) -> ObjectInfo:
    """A file's state as ObjectInfo. Every write makes a new file, so the etag is inode, time and size."""
    return ObjectInfo(
        key=key,
        size=found.st_size,
        etag=f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}",
        modified=datetime.fromtimestamp(found.st_mtime, UTC),
    )


def raise_unless_absent(error: OSError) -> None:
    """`onerror` of os.walk: an absent folder counts as empty; other errors are raised."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
