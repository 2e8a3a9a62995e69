"""Checks that the local disks for jobs and videos have free space."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from infra.errors import UserError
from infra.files import explained_os_errors
from serving.adapters.storage_faults import storage_faults

DISK = "the server's disk"  # its name in errors for callers
MIN_FREE = 16 << 20  # minimum free bytes
FRESH = 5.0  # seconds for which a result is reused, because anyone may ask


class DiskSpace:
    """Checks folders by allocating a temporary file, which obeys quotas and reserved space like a write."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = list(dict.fromkeys(folders))
        self._lock, self._checked_at = threading.Lock(), float("-inf")
        self._fault: UserError | None = None

    def check(self) -> None:
        """Raise StorageFault if a folder is full or not writable. Blocks."""
        with self._lock:  # concurrent callers get the first one's result
            if time.monotonic() - self._checked_at >= FRESH:
                self._fault = self._find_fault()
                self._checked_at = time.monotonic()
        if self._fault is not None:
            raise self._fault

    def _find_fault(self) -> UserError | None:
        try:
            with storage_faults(DISK):
                for folder in self._folders:
                    with (
                        explained_os_errors(f"writing to {folder}"),
                        tempfile.TemporaryFile(dir=folder) as file,
                    ):
                        os.posix_fallocate(file.fileno(), 0, MIN_FREE)
        except UserError as error:
            return error
        return None


def folders_of(database_url: str, *folders: Path | None) -> list[Path]:
    """The given folders that are not None, and the folder of an SQLite database."""
    from sqlalchemy.engine import make_url

    url = make_url(database_url)
    file = url.database if url.get_backend_name() == "sqlite" and url.database != ":memory:" else None
    return [
        folder for folder in (*folders, Path(file).absolute().parent if file else None) if folder is not None
    ]
