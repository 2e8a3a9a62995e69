"""The concept registry for requests: hides its location, makes unknown names cheap, detects its absence."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from infra.registry import Registry, Version, similar
from infra.storage import ObjectInfo, ObjectNotFound, Storage, open_storage
from serving.adapters.model_list import ModelListCache
from serving.adapters.storage_faults import StorageFault
from serving.threads import CONCEPTS, LISTS

log = logging.getLogger(__name__)


class Concepts(Registry):
    """A registry whose errors are for callers of the API.

    Similar names come from a cached list, so a request for an unknown concept does not list the storage.
    A registry that had concepts and now has none, not even removed ones, counts as unreachable, not as
    empty: its folder may be unmounted. A request that names a concept also fails while the folder does not
    exist; a list is empty then, since a server may start before the first concept exists.

    Args:
        memory: local folder with a marker for each registry that had content, so that a server knows it even
            if it starts while the registry is unreachable.
    """

    overview = "GET /v1/models lists what there is."
    shown = "the registry"  # type: ignore[assignment]  # callers do not need its location

    def __init__(self, storage: Storage, memory: Path | None = None) -> None:
        super().__init__(storage)
        self.model_list = ModelListCache(self)
        name = hashlib.sha256(storage.uri.encode()).hexdigest()
        self._marker = memory / name if memory is not None else None
        self._had_content = self._marker is not None and self._marker.exists()

    def refresh_names(self) -> None:
        """Start to refresh the list of names in a thread."""
        LISTS.begin(self.model_list.refresh)

    def names(self) -> Sequence[str]:
        """The names of all concepts, as of a recent list."""
        if self.model_list.must_refresh():
            self.refresh_names()  # for later calls
        return self.model_list.names

    def near(self, name: str) -> list[str]:
        return similar(name, self.names())

    def find(self, ref: str) -> tuple[str, int]:
        found = super().find(ref)
        self.record_content()
        return found

    def resolve(self, ref: str) -> Version:
        """Also raises StorageFault if the registry is unreachable."""
        with self.listed_a_moment_ago():
            return super().resolve(ref)

    @contextlib.contextmanager
    def listed_a_moment_ago(self) -> Iterator[None]:
        """Raise StorageFault for a pointer that was listed and is not found."""
        try:
            yield
        except ObjectNotFound as error:
            log.error("%s", error.message)
            raise StorageFault(CONCEPTS) from error

    def numbers(self, concept: str, what: str) -> set[int]:
        found = super().numbers(concept, what)
        if not found and what == "versions":
            if not self.storage.root_exists():
                log.error("%s does not exist: is it mounted?", self.uri)
                raise StorageFault(CONCEPTS)
            self._check_available()
        return found

    def pointers(self) -> dict[tuple[str, int], ObjectInfo]:
        found = super().pointers()
        if found:
            self.record_content()
        else:
            self._check_available()
        return found

    def record_content(self) -> None:
        """Remember that the registry has concepts."""
        if self._had_content:
            return
        self._had_content = True
        if self._marker is not None:
            with contextlib.suppress(OSError):  # for example a full disk; this server knows anyway
                self._marker.parent.mkdir(parents=True, exist_ok=True)
                self._marker.write_text(self.uri)

    def _check_available(self) -> None:
        if self._had_content and not self.storage.holds("concepts/"):
            hint = (
                f"; if it was emptied on purpose, remove {self._marker} and restart" if self._marker else ""
            )
            log.error("%s had concepts and is empty now: is it mounted?%s", self.uri, hint)
            raise StorageFault(CONCEPTS)


def open_concepts(uri: str, memory: Path | None = None) -> Concepts:
    """The registry at a folder or `s3://bucket/prefix`."""
    return Concepts(open_storage(uri), memory)
