"""The interface of all storages, and errors about objects and addresses. `open_storage` opens a storage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import InvalidInput, NotFound, UserError
from infra.files import TEMPORARY

if TYPE_CHECKING:
    import pyarrow.fs

LOCK = ".lock"  # lock file (flock(2)) for compare-and-swap in its folder


class ObjectError(UserError):
    """An error about one object or its address; other objects of the storage may be fine."""


class ObjectNotFound(ObjectError, NotFound):
    """No object has this key."""


class InvalidKey(ObjectError, InvalidInput):
    """The key is not a valid object key."""

    default_code = "invalid_key"


class InvalidUri(ObjectError):
    """The URI is not a valid storage address."""

    default_code = "invalid_uri"


@dataclass(frozen=True)
class ObjectInfo:
    """Metadata of an object. `key` is relative to the storage that returned it."""

    key: str
    size: int  # bytes
    etag: str  # changes whenever the content changes; opaque
    modified: datetime  # UTC


class Storage(ABC):
    """Objects under relative POSIX keys; behaves the same for a folder and for S3.

    Methods raise one-sentence UserErrors: InvalidKey, or a StorageError (BucketNotFound, StorageAway,
    StorageDenied, StorageFull ...). Temporary failures of S3 are retried first.
    """

    uri: str

    @abstractmethod
    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the address without credentials: every process reads its own."""

    def __repr__(self) -> str:
        return f"open_storage({self.uri!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and other.uri == self.uri

    def __hash__(self) -> int:
        return hash(self.uri)

    @abstractmethod
    def sub(self, prefix: str) -> Storage:
        """The part of this storage below `prefix/`, as a storage."""

    @abstractmethod
    def get(self, key: str) -> bytes:
        """The object's bytes. Raises ObjectNotFound."""

    @abstractmethod
    def get_file(self, key: str, path: Path) -> None:
        """Copy the object to `path` atomically; creates parent folders. Raises ObjectNotFound."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Write or overwrite."""

    @abstractmethod
    def put_file(self, key: str, path: Path) -> None:
        """Write or overwrite with the content of the local file `path`."""

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write only if the key is absent; of concurrent writers exactly one gets True.

        On S3, if the answer to a successful write is lost, the retry returns False. A caller that must know
        puts something unique into `data` and compares.
        """

    @abstractmethod
    def replace_if(self, key: str, data: bytes, etag: str | None) -> bool:
        """Compare and swap: write only if the object still has `etag` (None: only if it is absent).

        Write a key that is changed this way only with `put_if_absent` and `replace_if`.
        """

    @abstractmethod
    def head(self, key: str) -> ObjectInfo | None:
        """The object's size, etag and time, or None if it is absent."""

    def exists(self, key: str) -> bool:
        return self.head(key) is not None

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with the string `prefix`, in byte order of the keys."""

    def holds(self, prefix: str) -> bool:
        """Whether there is any object whose key starts with the string `prefix`."""
        return next(iter(self.list(prefix)), None) is not None

    def root_exists(self) -> bool:
        """Whether the place for objects exists. A folder does not before it is created or while its mount is missing."""
        return True

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the object; does nothing if it is absent."""

    def prune(self, folder: str) -> None:
        """Remove empty folders at and below `folder`, which stay in some storages when their objects are deleted."""
        return

    @abstractmethod
    def arrow(self) -> tuple[pyarrow.fs.FileSystem, str]:
        """(filesystem, base path without scheme) for pyarrow, Ray Data and Ray Train."""


def check_key(key: str) -> str:
    """The key, if it is a relative POSIX path that means the same in a folder and in S3. Else InvalidKey."""
    pieces = key.split("/")
    if (
        any(piece in ("", ".", "..") for piece in pieces)
        or any(piece.startswith(TEMPORARY) or piece == LOCK for piece in pieces)
        or any(ord(letter) < 32 or letter in "\\\x7f" or "\ud800" <= letter <= "\udfff" for letter in key)
        or any(len(piece.encode(errors="replace")) > 255 for piece in pieces)
        or len(key.encode(errors="replace")) > 900
    ):
        shown = key if len(key) <= 80 else f"{key[:80]}... ({len(key)} characters)"
        raise InvalidKey(
            f"object key {shown!a}: expected a relative path like folder/name, without '..', empty or overlong parts."
        )
    return key
