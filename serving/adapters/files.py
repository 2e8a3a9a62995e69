"""The first two tiers of adapters, and of noise priors: the registry, and verified files on local disk.

Files are found by the content hash that the request was pinned to, so new or removed versions do not
change an accepted job.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from infra.errors import DamagedData, NotFound, SystemFailure, Unavailable, UserError
from infra.files import TEMPORARY
from infra.registry import Registry
from infra.storage import ObjectNotFound, atomic_file
from infra.storage.objects import check_hash, object_key, sha256_file
from models.adapters.file import Adapter, read_adapter
from models.adapters.noise_prior import StoredNoise, read_noise
from models.adapters.versions import check_path
from models.foundations.base import Foundation
from serving.adapters.storage_faults import StorageFault, storage_faults
from serving.schemas import AdapterUsed, NoisePriorUsed, VersionFile

log = logging.getLogger(__name__)
STORAGE = "the adapters' storage"  # its name in errors for callers
ATTEMPTS = 3  # to fetch an object if its storage is unreachable or it arrives damaged
ABANDONED = 3600.0  # seconds since its last byte after which an unfinished file belongs to a dead engine
IN_USE = 60.0  # seconds to keep a file after another engine used it: that engine may be about to open it


class Hashed(Protocol):
    """What was read from a file."""

    @property
    def sha256(self) -> str:
        """The hash of the file as it was read."""


Content = TypeVar("Content", bound=Hashed)


class Source(Protocol):
    """Where adapters and noise priors come from. Thread-safe."""

    def has(self, use: VersionFile) -> bool:
        """Whether its file is on local disk, so that reading it needs no network."""

    def fetch(self, use: VersionFile) -> None:
        """Download it to local disk; blocks. Raises UserError."""

    def forget(self, sha256: str) -> bool:
        """Remove a file from local disk; False if it cannot be removed now."""

    def read(self, use: AdapterUsed) -> Adapter:
        """An adapter's checked tensors. Raises UserError if it cannot be loaded."""

    def read_noise(self, use: NoisePriorUsed) -> StoredNoise:
        """A noise prior's checked latents. Raises UserError if it cannot be loaded."""


class AdapterFiles:
    """Adapters and noise priors of a registry, cached in files on local disk with eviction by least recent use.

    Args:
        folder: holds the files, named by hash; several engines may share it. A file's modification time is
            its last use, visible to all engines.
        capacity: maximum bytes of all files. Files being read, files that another engine used within the
            last minute, and the last used file always stay.
        pause: seconds before a failed fetch is retried, doubled each time.
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
            if found.st_mtime < time.time() - ABANDONED:
                file.unlink(missing_ok=True)
        self._used: dict[str, int] = {}  # this engine's last uses: mtime in nanoseconds
        self._reading: Counter[str] = Counter()  # not evicted
        self._lock = threading.Lock()
        self._trim()

    def resident(self) -> list[str]:
        """Hashes of the files here, least recently used first."""
        return [file.stem for file, _ in self._files()]

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        return sorted(files_in(self._folder, "*.safetensors"), key=lambda entry: entry[1].st_mtime_ns)

    def forget(self, sha256: str) -> bool:
        """Remove a file. False, without any change, while it is read."""
        with self._lock:
            if self._reading[sha256]:
                return False
            (self._folder / f"{sha256}.safetensors").unlink(missing_ok=True)
            self._used.pop(sha256, None)
            return True

    def forget_erased(self) -> None:
        """Remove the files that the registry no longer has. Does nothing if the registry is unreachable."""
        if self._registry is None:
            return
        storage = self._registry.storage
        try:
            if storage.holds("objects/"):  # otherwise it may be unmounted
                for sha256 in self.resident():
                    if not storage.exists(object_key(sha256)):
                        self.forget(sha256)
        except UserError as error:
            log.warning("files of erased concepts may stay on this disk: %s", error.message)

    def has(self, use: VersionFile) -> bool:
        return self._file(use).is_file()

    def fetch(self, use: VersionFile) -> None:
        """Download atomically from the registry and check the hash. Retries temporary failures."""
        for attempt in range(ATTEMPTS):
            try:
                return self._download(use)
            except SystemFailure as error:
                if attempt == ATTEMPTS - 1:
                    raise
                log.warning("%s is fetched again: %s", use.ref, error.message)
                time.sleep(self._pause * 2**attempt)

    def read(self, use: AdapterUsed) -> Adapter:
        """Read an adapter. Raises UserError: not in the registry, malformed, not finite, another foundation.

        A file that was truncated or changed on disk is fetched again, once.
        """
        adapter = self._read(use, lambda file: read_adapter(file, self._foundation))
        check_path(use.ref, use.path, adapter)
        return adapter

    def read_noise(self, use: NoisePriorUsed) -> StoredNoise:
        """Read a noise prior. Raises UserError, and fetches a damaged file again, as `read` does."""
        return self._read(use, lambda file: read_noise(file, self._foundation))

    def _read(self, use: VersionFile, load: Callable[[Path], Content]) -> Content:
        with self._lock:
            self._reading[use.sha256] += 1
        try:
            return self._load(use, load)
        finally:
            with self._lock:
                self._reading[use.sha256] -= 1

    def _load(self, use: VersionFile, load: Callable[[Path], Content]) -> Content:
        file = self._file(use)
        for last in (False, True):
            self._touch(file)
            if not file.is_file():
                self.fetch(use)
            try:
                content = load(file)
            except FileNotFoundError:  # another engine evicted it
                pass
            except UserError as error:
                if self._is_intact(use):
                    file.unlink(missing_ok=True)
                    raise error.reworded(f"{use.ref}: {error.message}") from None
            else:
                if content.sha256 == use.sha256:
                    self._record_use(file)
                    return content
            file.unlink(missing_ok=True)
            if last:
                break
            log.warning("%s is damaged on disk and is fetched again", use.ref)
        raise Unavailable(
            f"{use.ref}: {file} changed right after it was written; check the disk.",
            code="adapter_damaged",
        )

    def _is_intact(self, use: VersionFile) -> bool:
        file = self._file(use)
        return file.is_file() and sha256_file(file) == use.sha256

    def _file(self, use: VersionFile) -> Path:
        return self._folder / f"{use.sha256}.safetensors"

    def _download(self, use: VersionFile) -> None:
        name = use.ref
        if self._registry is None:
            raise NotFound(
                f"{name} was requested, but there is no registry; start the server with --registry URI.",
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
                if not storage.holds("objects/"):  # such as an unmounted folder
                    raise StorageFault(STORAGE) from error
            raise NotFound(
                f"{name}: its file {use.sha256[:12]} is not in the registry; publish it again.",
                code="adapter_not_found",
            ) from None
        except DamagedData as error:
            log.error("%s: %s", name, error.message)  # names the location, which callers must not see
            raise error.reworded(
                f"{name}: its file {use.sha256[:12]} is damaged in the registry; publish it again."
            ) from None
        self._record_use(file)

    def _record_use(self, file: Path) -> None:
        """Mark the file as used, and evict others if necessary."""
        self._touch(file)
        self._trim()

    def _touch(self, file: Path) -> None:
        """Mark the file as used, for other engines with this folder too."""
        # It may be missing: not fetched yet, or evicted by another engine.
        with self._lock, contextlib.suppress(FileNotFoundError):
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
                if not self._must_stay(file.stem, found):
                    file.unlink(missing_ok=True)
                    size -= found.st_size
            self._used = {file.stem: self._used[file.stem] for file, _ in files if file.stem in self._used}

    def _must_stay(self, sha256: str, found: os.stat_result) -> bool:
        """Whether this engine is reading it, or another engine, whose reads are not visible, may be."""
        by_another = found.st_mtime_ns != self._used.get(sha256)
        # abs: a time in the future comes from a clock that was ahead, and must not keep the file until then
        recent = abs(time.time() - found.st_mtime) < IN_USE
        return self._reading[sha256] > 0 or (by_another and recent)


def files_in(folder: Path, pattern: str) -> Iterator[tuple[Path, os.stat_result]]:
    """The matching files with their stat results; skips those that another engine removes meanwhile."""
    for file in folder.glob(pattern):
        try:
            yield file, file.stat()
        except FileNotFoundError:
            continue
