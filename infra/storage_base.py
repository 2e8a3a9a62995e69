"""What every storage does, and what is wrong with an object or an address; infra/storage.py opens one."""

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

LOCK = ".lock"  # holds the flock(2) of compare-and-swap in its folder


class ObjectError(UserError):
    """Something is wrong with one object or its address; others of the same storage may be had."""


class ObjectNotFound(ObjectError, NotFound):
    """No object under this key."""


class InvalidKey(ObjectError, InvalidInput):
    """No object has such a key."""

    default_code = "invalid_key"


class InvalidUri(ObjectError):
    """No storage has such an address."""

    default_code = "invalid_uri"


@dataclass(frozen=True)
class ObjectInfo:
    """What is known of an object without reading it. `key` is relative to the storage that was asked."""

    key: str
    size: int  # bytes
    etag: str  # changes whenever the content changes; opaque
    modified: datetime  # UTC


class Storage(ABC):
    """Objects under relative posix keys; the same behaviour for a folder and for S3.

    Raises UserError, always one sentence: InvalidKey, or a StorageError (BucketNotFound, StorageAway, StorageDenied,
    StorageFull ...). Temporary failures of S3 are retried before.
    """

    uri: str

    @abstractmethod
    def __reduce__(self) -> tuple[Any, ...]:
        """Travels by its address, without credentials: every process reads its own."""

    def __repr__(self) -> str:
        return f"open_storage({self.uri!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and other.uri == self.uri

    def __hash__(self) -> int:
        return hash(self.uri)

    @abstractmethod
    def sub(self, prefix: str) -> Storage:
        """The storage below `prefix/`, a storage of its own."""

    @abstractmethod
    def get(self, key: str) -> bytes:
        """The object's bytes. Raises ObjectNotFound."""

    @abstractmethod
    def get_file(self, key: str, path: Path) -> None:
        """Copy the object to `path`, whole or not at all. Makes the folders. Raises ObjectNotFound."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Write or overwrite."""

    @abstractmethod
    def put_file(self, key: str, path: Path) -> None:
        """Write or overwrite with the content of the local file `path`."""

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write only where nothing is; of many writers exactly one gets True.

        On S3 a lost answer to a write that did happen is retried and reads False: a caller that must know
        puts something of its own into `data` and compares.
        """

    @abstractmethod
    def replace_if(self, key: str, data: bytes, etag: str | None) -> bool:
        """Compare and swap: write only if the object still has `etag` (None: only if it is absent).

        A key that changes this way is written by `put_if_absent` and `replace_if` only.
        """

    @abstractmethod
    def head(self, key: str) -> ObjectInfo | None:
        """The object's size, etag and time, or None when there is none."""

    def exists(self, key: str) -> bool:
        return self.head(key) is not None

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with the string `prefix`, in the order of the keys' bytes."""

    def holds(self, prefix: str) -> bool:
        """Whether there is any object whose key starts with the string `prefix`."""
        return next(iter(self.list(prefix)), None) is not None

    def root_exists(self) -> bool:
        """Whether the place for objects exists. A folder does not before it is created or while its mount is missing."""
        return True

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove; nothing happens when it is absent."""

    @abstractmethod
    def arrow(self) -> tuple[pyarrow.fs.FileSystem, str]:
        """(filesystem, base path without scheme) for pyarrow, Ray Data and Ray Train."""


def check_key(key: str) -> str:
    """The key, if it is a relative posix path that means the same in a folder and in S3. InvalidInput else."""
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
