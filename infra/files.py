"""Files written whole or not at all, and what the operating system refuses as sentences."""

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
)  # of a network file system whose server is gone, of a failing disk
TEMPORARY = ".tmp-"  # unfinished writes; no storage lists them, and readers of a folder skip dot files


class UnusablePath(StorageError, InvalidInput):
    """The operating system refuses this path."""

    default_code = "invalid_path"


@contextlib.contextmanager
def explained_os_errors(doing: str) -> Iterator[None]:
    """Turn what the operating system refuses (disk full, no permission, ...) into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageFull(
                f"{doing}: the disk is full ({error.strerror}); free space or choose another folder. Nothing was kept."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageDenied(
                f"{doing}: not permitted ({error.strerror}); choose a folder that you may write and read."
            ) from error
        if error.errno in AWAY:
            raise StorageAway(
                f"{doing}: the file system does not answer ({error.strerror}); check its server or disk and try again."
            ) from error
        raise UnusablePath(f"{doing}: {error.strerror or error}; check the path.") from error


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends well and removed when it does not."""
    with explained_os_errors(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            settle(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def settle(path: Path) -> None:
    """Give a temporary file the permissions of an ordinary one and bring it to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fchmod(descriptor, 0o666 & ~UMASK)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_umask() -> int:
    """The process's umask; reading it means setting it, so this happens once, at import."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


UMASK = read_umask()


def cache_folder() -> Path:
    """Where this machine keeps what can be made again."""
    base = os.environ.get("XDG_CACHE_HOME") or (Path.home() / ".cache")
    folder = Path(base) / "motiondirector"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / "motiondirector"
        folder.mkdir(parents=True, exist_ok=True)
    return folder
