"""Every version of a registry at a glance: what `GET /v1/models` lists.

A pointer never changes, so each is read once; what there is, and what was removed, one listing says. So of a registry in
S3 only the first answer takes a request for every version, and when whoever asked for it has gone, it is made all the
same: the next finds what it has read.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from infra.registry import Registry

READERS = 8  # pointers that are read at once


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
        self._lock = threading.Lock()

    def versions(self) -> list[Glance]:
        """All there are now, by concept and number. UserError when the registry cannot be read."""
        with self._lock:  # who comes meanwhile finds what was read for the one before
            pointers = self._registry.pointers()
            keys = [(concept, number, info.etag) for (concept, number), info in pointers.items()]
            self._known = {key: self._known[key] for key in keys if key in self._known}
            missing = [key for key in keys if key not in self._known]
            if missing:
                with ThreadPoolExecutor(min(READERS, len(missing)), thread_name_prefix="shelf") as pool:
                    list(pool.map(self._read, missing))
            return [self._known[key] for key in keys]

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
