"""A cached list of every version of a registry, for `GET /v1/models`.

A pointer never changes, so each is read once; one listing shows new and removed versions. With a registry
in S3, only the first list takes a request per version. It continues even if its caller has gone, so later
callers reuse its reads. The registry is listed at most once a second, for any number of callers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from infra.registry import Registry, Version
from models.adapters.versions import Gives, about, adapter_files, fidelity, gives, preview_file

log = logging.getLogger(__name__)
READERS = 8  # pointers read in parallel
FRESH = 1.0  # seconds for which a list counts as current
NAMES_FRESH = 30.0  # seconds for which its names are good enough for hints


@dataclass(frozen=True)
class VersionSummary:
    """What a list shows of a version."""

    concept: str
    number: int
    created: int  # Unix seconds
    sha256: str  # of the adapter
    gives: tuple[Gives, ...]
    foundation: str | None  # fingerprint of the model it was trained on, if recorded
    adapters: tuple[str, ...] = ()  # SHA-256 of each
    bytes: int = 0  # of all its files
    about: str | None = None  # a sentence for people
    fidelity: float | None = None  # motion fidelity, if it was measured
    preview: bool = False  # whether it has a sample video

    @property
    def ref(self) -> str:
        """`name@3`."""
        return f"{self.concept}@{self.number}"


class ModelListCache:
    """The versions of one registry. Thread-safe. Holds a few hundred bytes per version."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[
            tuple[str, int, str], VersionSummary
        ] = {}  # by concept, number and the pointer's etag
        self._listed: list[VersionSummary] | None = None
        self._began = float("-inf")  # start of the last successful listing, as of time.monotonic
        self._tried = float("-inf")  # start of the last attempt
        self._lock = threading.Lock()
        self.names: Sequence[str] = ()  # of all concepts, as of the last list

    @property
    def known(self) -> Sequence[VersionSummary]:
        """All versions as of the last list; reads nothing."""
        return self._listed or ()

    def must_refresh(self) -> bool:
        """Whether the names are outdated. Only one caller gets True, and must start a refresh."""
        if time.monotonic() - self._tried <= NAMES_FRESH:
            return False
        self._tried = time.monotonic()
        return True

    def refresh(self) -> None:
        """Refresh the list; logs an error instead of raising it."""
        try:
            self.versions()
        except Exception as error:  # the next caller of `versions` gets the error
            log.warning("the registry cannot be listed: %s", error)

    def versions(self) -> list[VersionSummary]:
        """All versions (up to a second old), by concept and number; the same list object while unchanged.

        Raises UserError if the registry cannot be read.
        """
        asked = time.monotonic()
        with self._lock:  # concurrent callers get the list made meanwhile
            now = time.monotonic()
            if self._listed is not None and self._began >= min(asked, now - FRESH):
                return self._listed
            self._tried = now
            pointers = self._registry.pointers()
            self.names = list(dict.fromkeys(concept for concept, _ in pointers))
            keys = [(concept, number, info.etag) for (concept, number), info in pointers.items()]
            self._known = {key: self._known[key] for key in keys if key in self._known}
            missing = [key for key in keys if key not in self._known]
            if missing:
                with ThreadPoolExecutor(min(READERS, len(missing)), thread_name_prefix="model-list") as pool:
                    list(pool.map(self._read, missing))
            listed = [self._known[key] for key in keys]
            if listed != self._listed:
                self._listed = listed
            self._began = now
            return self._listed or []

    def _read(self, key: tuple[str, int, str]) -> None:
        """Read one version and store it at once, so that it survives a failure of a later one."""
        concept, number, _ = key
        version = self._registry.load(concept, number, added_metrics=False)
        self._known[key] = summary_of(version)


def summary_of(version: Version) -> VersionSummary:
    """What a list shows of a version."""
    return VersionSummary(
        concept=version.concept,
        number=version.number,
        created=int(version.created_at.timestamp()),
        sha256=version.adapter_sha256,
        gives=gives(version),
        foundation=version.metadata.get("foundation_fingerprint"),
        adapters=tuple(entry.sha256 for entry in adapter_files(version).values()),
        bytes=sum(entry.size for entry in version.files.values()),
        about=about(version),
        fidelity=fidelity(version),
        preview=preview_file(version) is not None,
    )
