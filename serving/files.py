"""The first two tiers: the registry, and verified files on local disk.

Everything is found by the content hash that the request was pinned to, so neither a new version nor the removal of
an old one changes a job that was accepted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from infra.errors import DamagedData, NotFound, SystemFailure, Unavailable, UserError
from infra.files import TEMPORARY
from infra.objects import check_hash, object_key, sha256_file
from infra.registry import Registry
from infra.storage import ObjectNotFound, atomic_file
from models.adapter import Adapter, read_adapter
from models.foundation import Foundation
from models.versions import check_path
from serving.requests import AdapterUsed
from serving.storage_faults import StorageFault, storage_faults

log = logging.getLogger(__name__)
STORAGE = "the adapters' storage"  # what callers know of it
ATTEMPTS = 3  # to fetch an object whose storage is away or which came damaged
LEFT_BEHIND = 3600.0  # seconds after its last byte that an unfinished file is of an engine that died
OTHERS = 60.0  # seconds that a file stays which another engine has used: it may be about to open it


class Source(Protocol):
    """Where adapters come from. Any thread may call any of these."""

    def has(self, use: AdapterUsed) -> bool:
        """Whether `read` needs no network."""

    def fetch(self, use: AdapterUsed) -> None:
        """Bring it to local disk; blocks. Raises UserError."""

    def read(self, use: AdapterUsed) -> Adapter:
        """Its checked tensors. Raises UserError for what may not load."""


class AdapterFiles:
    """Adapters of a registry, through files on local disk; the least recently used ones go.

    Args:
        folder: where the files are kept, under their hashes; several engines may share it. When a file was last used
            is its time of modification, which they all see.
        capacity: most bytes of files, whoever brought them; what is being read, what another engine has used within
            the last minute, and the last one used, always stay.
        pause: seconds before a failed fetch is tried again, doubled each time.
    """

    def __init__(
        self,
        registry: Registry | None,
        foundation: Foundation,
        folder: Path,
        capacity: int = 16 << 30,
        pause: float = 0.2,
    ) -> None:
        self._registry, self._foundation, self._folder = registry, foundation, folder
        self._capacity, self._pause = capacity, pause
        folder.mkdir(parents=True, exist_ok=True)
        for file, found in files_in(folder, f"{TEMPORARY}*"):
            if found.st_mtime < time.time() - LEFT_BEHIND:
                file.unlink(missing_ok=True)
        self._used: dict[str, int] = {}  # by this engine: when, in nanoseconds as the file system has it
        self._reading: Counter[str] = Counter()  # these stay
        self._lock = threading.Lock()
        self._trim()

    def resident(self) -> list[str]:
        """Hashes of the files here, least recently used first."""
        return [file.stem for file, _ in self._files()]

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        return sorted(files_in(self._folder, "*.safetensors"), key=lambda entry: entry[1].st_mtime_ns)

    def has(self, use: AdapterUsed) -> bool:
        return self._file(use).is_file()

    def fetch(self, use: AdapterUsed) -> None:
        """From the registry, its hash checked; whole or not at all. Temporary failures are tried again."""
        for attempt in range(ATTEMPTS):
            try:
                return self._download(use)
            except SystemFailure as error:
                if attempt == ATTEMPTS - 1:
                    raise
                log.warning("%s@%s is fetched again: %s", use.concept, use.version, error.message)
                time.sleep(self._pause * 2**attempt)

    def read(self, use: AdapterUsed) -> Adapter:
        """Raises UserError: not in the registry, malformed, not finite, of another foundation.

        A file that is not what was fetched (cut short, changed) is fetched again, once.
        """
        with self._lock:
            self._reading[use.sha256] += 1
        try:
            return self._read(use)
        finally:
            with self._lock:
                self._reading[use.sha256] -= 1

    def _read(self, use: AdapterUsed) -> Adapter:
        name, file = f"{use.concept}@{use.version}", self._file(use)
        for last in (False, True):
            self._touch(file)
            if not file.is_file():
                self.fetch(use)
            try:
                adapter = read_adapter(file, self._foundation)
            except FileNotFoundError:  # another engine with this folder needed the room
                pass
            except UserError as error:
                if self._whole(use):
                    file.unlink(missing_ok=True)
                    raise error.reworded(f"{name}: {error.message}") from None
            else:
                if adapter.sha256 == use.sha256:
                    break
            file.unlink(missing_ok=True)
            if last:
                raise Unavailable(
                    f"{name}: {file} changes as soon as it is written; check the disk.",
                    code="adapter_damaged",
                )
            log.warning("%s is damaged on disk and is fetched again", name)
        check_path(name, use.path, adapter)
        self._note(file)
        return adapter

    def _whole(self, use: AdapterUsed) -> bool:
        file = self._file(use)
        return file.is_file() and sha256_file(file) == use.sha256

    def _file(self, use: AdapterUsed) -> Path:
        return self._folder / f"{use.sha256}.safetensors"

    def _download(self, use: AdapterUsed) -> None:
        name = f"{use.concept}@{use.version}"
        if self._registry is None:
            raise NotFound(
                f"{name} was asked for, but there is no registry; start with --registry URI.",
                code="concept_not_found",
            )
        storage, file = self._registry.storage, self._file(use)
        try:
            with storage_faults(STORAGE), atomic_file(file) as temporary:
                storage.get_file(object_key(use.sha256), temporary)
                check_hash(storage, use.sha256, sha256_file(temporary))
        except ObjectNotFound as error:
            log.error("%s: %s", name, error.message)
            with storage_faults(STORAGE):
                if not storage.holds("objects/"):  # a folder that was unmounted, say
                    raise StorageFault(STORAGE) from error
            raise NotFound(
                f"{name}: its file {use.sha256[:12]} is not in the registry; publish it again.",
                code="adapter_not_found",
            ) from None
        except DamagedData as error:
            log.error("%s: %s", name, error.message)  # with where it is, which concerns no caller
            raise error.reworded(
                f"{name}: its file {use.sha256[:12]} is damaged in the registry; publish it again."
            ) from None
        self._note(file)

    def _note(self, file: Path) -> None:
        """It was used just now."""
        self._touch(file)
        self._trim()

    def _touch(self, file: Path) -> None:
        """Other engines with this folder see that it is in use."""
        with (
            self._lock,
            contextlib.suppress(FileNotFoundError),
        ):  # not here yet, or another had no room for it
            now = time.time_ns()
            os.utime(file, ns=(now, now))
            self._used[file.stem] = file.stat().st_mtime_ns

    def _trim(self) -> None:
        with self._lock:
            files = self._files()
            size = sum(found.st_size for _, found in files)
            for file, found in files[:-1]:
                if size <= self._capacity:
                    break
                if not self._stays(file.stem, found):
                    file.unlink(missing_ok=True)
                    size -= found.st_size
            self._used = {file.stem: self._used[file.stem] for file, _ in files if file.stem in self._used}

    def _stays(self, sha256: str, found: os.stat_result) -> bool:
        """Whether this engine reads it, or another one, whose reads cannot be seen, may be about to."""
        by_another = found.st_mtime_ns != self._used.get(sha256)
        # of a clock that was ahead, a file would seem to be in use until that clock's time comes
        recent = abs(time.time() - found.st_mtime) < OTHERS
        return self._reading[sha256] > 0 or (by_another and recent)


def files_in(folder: Path, pattern: str) -> Iterator[tuple[Path, os.stat_result]]:
    """The files that match, and what is known of each; without those that another engine removes meanwhile."""
    for file in folder.glob(pattern):
        try:
            yield file, file.stat()
        except FileNotFoundError:
            continue
