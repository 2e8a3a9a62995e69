"""Every version of a registry at a glance: what `GET /v1/models` lists.

A pointer never changes, so each is read once; what there is, and what was removed, one listing says. So of a registry in
S3 only the first answer takes a request for every version, and when whoever asked for it has gone, it is made all the
same: the next finds what it has read. However many ask, the registry is listed once a second at most.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from infra.registry import Registry

log = logging.getLogger(__name__)
READERS = 8  # pointers that are read at once
FRESH = 1.0  # seconds for which a list is held to be what there is
NAMES_FRESH = 30.0  # seconds for which its names are good enough for hints


@dataclass(frozen=True)
class Glance:
    """What is shown of a version."""

    concept: str
    number: int
    created: int  # Unix seconds
    sha256: str  # of the adapter
    foundation: str | None  # fingerprint of what it was trained on, where that was written down

    @property
    def ref(self) -> str:
        """`name@3`."""
        return f"{self.concept}@{self.number}"


class Shelf:
    """The versions of one registry. Thread-safe. Holds a few hundred bytes of each that there is."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[tuple[str, int, str], Glance] = {}  # by concept, number and the pointer's etag
        self._listed: list[Glance] | None = None
        self._began = float("-inf")  # of what was listed last
        self._looked = float("-inf")  # and of the last try
        self._lock = threading.Lock()
        self.names: Sequence[str] = ()  # of all concepts, as of the last list

    def grown_old(self) -> bool:
        """Whether the names want a look; whoever hears so is to have one taken, and is the only one."""
        if time.monotonic() - self._looked <= NAMES_FRESH:
            return False
        self._looked = time.monotonic()
        return True

    def refresh(self) -> None:
        """List what there is; that it cannot be is logged."""
        try:
            self.versions()
        except Exception as error:  # the next one who asks hears of it
            log.warning("the registry cannot be listed: %s", error)

    def versions(self) -> list[Glance]:
        """All there are (as of a second ago), by concept and number; the same list while nothing has changed.

        UserError when the registry cannot be read.
        """
        asked = time.monotonic()
        with self._lock:  # who comes meanwhile has what was listed since
            now = time.monotonic()
            if self._listed is not None and self._began >= min(asked, now - FRESH):
                return self._listed
            self._looked = now
            pointers = self._registry.pointers()
            self.names = list(dict.fromkeys(concept for concept, _ in pointers))
            keys = [(concept, number, info.etag) for (concept, number), info in pointers.items()]
            self._known = {key: self._known[key] for key in keys if key in self._known}
            missing = [key for key in keys if key not in self._known]
            if missing:
                with ThreadPoolExecutor(min(READERS, len(missing)), thread_name_prefix="shelf") as pool:
                    list(pool.map(self._read, missing))
            listed = [self._known[key] for key in keys]
            if listed != self._listed:
                self._listed = listed
            self._began = now
            return self._listed or []

    def _read(self, key: tuple[str, int, str]) -> None:
        """Kept at once: what was read before one that fails need not be read again."""
        concept, number, _ = key
        version = self._registry.load(concept, number, added_metrics=False)
        self._known[key] = Glance(
            concept=concept,
            number=number,
            created=int(version.created_at.timestamp()),
            sha256=version.adapter_sha256,
            foundation=version.metadata.get("foundation_fingerprint"),
        )
