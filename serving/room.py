"""Whether the local disks that jobs and videos are written to take more."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from infra.errors import UserError
from infra.files import explained_os_errors
from serving.storage_faults import storage_faults

DISK = "the server's disk"  # what callers know of it
LEAST = 16 << 20  # bytes that there must be room for
FRESH = 5.0  # seconds for which an answer is held to be true: anybody may ask


class Room:
    """Looks at folders, by setting space aside for a moment: that obeys quotas and what is reserved, as a write does."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = list(dict.fromkeys(folders))
        self._lock, self._looked = threading.Lock(), float("-inf")
        self._found: UserError | None = None

    def check(self) -> None:
        """Raises StorageFault when one of them is full or cannot be written to. Blocks."""
        with self._lock:  # who comes meanwhile has what was found for the one before
            if time.monotonic() - self._looked >= FRESH:
                self._found = self._look()
                self._looked = time.monotonic()
        if self._found is not None:
            raise self._found

    def _look(self) -> UserError | None:
        try:
            with storage_faults(DISK):
                for folder in self._folders:
                    with (
                        explained_os_errors(f"writing to {folder}"),
                        tempfile.TemporaryFile(dir=folder) as file,
                    ):
                        os.posix_fallocate(file.fileno(), 0, LEAST)
        except UserError as error:
            return error
        return None


def folders_of(database_url: str, *folders: Path | None) -> list[Path]:
    """The folders, and that of a database which is a file."""
    from sqlalchemy.engine import make_url

    url = make_url(database_url)
    file = url.database if url.get_backend_name() == "sqlite" and url.database != ":memory:" else None
    return [
        folder for folder in (*folders, Path(file).absolute().parent if file else None) if folder is not None
    ]
