"""Atomic file writes, and errors of the operating system as readable messages."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from infra.errors import InvalidInput, StorageAway, StorageDenied, StorageError, StorageFull

AWAY = (
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
)  # from a network file system without its server, or a failing disk
TEMPORARY = ".tmp-"  # unfinished writes; storages do not list them, and readers of a folder skip dot files


class UnusablePath(StorageError, InvalidInput):
    """The operating system refuses this path."""

    default_code = "invalid_path"


@contextlib.contextmanager
def explained_os_errors(doing: str) -> Iterator[None]:
    """Turn errors of the operating system (disk full, no permission, ...) into a StorageError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageFull(
                f"{doing}: the disk is full ({error.strerror}); free space or choose another folder. Nothing was kept."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageDenied(
                f"{doing}: not permitted ({error.strerror}); choose a folder that you can read and write."
            ) from error
        if error.errno in AWAY:
            raise StorageAway(
                f"{doing}: the file system does not answer ({error.strerror}); check its server or disk and try again."
            ) from error
        raise UnusablePath(f"{doing}: {error.strerror or error}; check the path.") from error


@contextlib.contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """An empty temporary file beside `path`, removed at the end of the block if it is there. Explains errors of the block."""
    with explained_os_errors(f"writing {path}"):
        temporary = new_temporary(path.parent)
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def new_temporary(folder: Path) -> Path:
    """An empty temporary file in a folder, which is created if it is missing."""
    for last in (False, False, True):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle, name = tempfile.mkstemp(dir=folder, prefix=TEMPORARY)
        except FileNotFoundError:  # `FolderStorage.prune` removed the empty folder at this moment
            if last:
                raise
        else:
            os.close(handle)
            return Path(name)
    raise AssertionError("unreachable")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`: renamed to it if the block succeeds, removed if it raises."""
    with temporary_beside(path) as temporary:
        yield temporary
        settle(temporary)
        temporary.replace(path)


def settle(path: Path) -> None:
    """Give a temporary file ordinary permissions and flush it to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fchmod(descriptor, 0o666 & ~UMASK)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_umask() -> int:
    """The process's umask. Reading it requires setting it, so this is called once, at import."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


UMASK = read_umask()


def cache_folder() -> Path:
    """The folder for data that can be recomputed."""
    base = os.environ.get("XDG_CACHE_HOME") or (Path.home() / ".cache")
    folder = Path(base) / "motiondirector"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / "motiondirector"
        folder.mkdir(parents=True, exist_ok=True)
    return folder
