"""The concept registry for requests: hides its location, makes unknown names cheap, detects its absence."""

from __future__ import annotations

import logging

from infra.registry import Registry, Version, similar
from infra.storage import ObjectInfo, ObjectNotFound, Storage, open_storage
from serving.shelf import Shelf
from serving.storage_faults import StorageFault
from serving.threads import CONCEPTS, LISTS

log = logging.getLogger(__name__)


class Concepts(Registry):
    """A registry whose errors are for callers of the API.

    Similar names come from a cached list, so a request for an unknown concept does not list the storage.
    A registry that had concepts and now has none, not even removed ones, counts as unreachable, not as
    empty: its folder may be unmounted.
    """

    overview = "GET /v1/models lists what there is."
    shown = "the registry"  # type: ignore[assignment]  # callers do not need its location

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        self.shelf = Shelf(self)
        self._seen = False  # whether there was anything in it

    def look(self) -> None:
        """Start to refresh the list of names in a thread."""
        LISTS.begin(self.shelf.refresh)

    def near(self, name: str) -> list[str]:
        if self.shelf.grown_old():
            self.look()  # for later calls
        return similar(name, self.shelf.names)

    def find(self, ref: str) -> tuple[str, int]:
        found = super().find(ref)
        self._seen = True
        return found

    def resolve(self, ref: str) -> Version:
        """Also raises StorageFault if the registry is unreachable."""
        try:
            return super().resolve(ref)
        except ObjectNotFound as error:  # its pointer was listed a moment ago
            log.error("%s", error.message)
            raise StorageFault(CONCEPTS) from error

    def numbers(self, concept: str, what: str) -> set[int]:
        found = super().numbers(concept, what)
        if not found and what == "versions":
            self._check_there()
        return found

    def pointers(self) -> dict[tuple[str, int], ObjectInfo]:
        found = super().pointers()
        if not found:
            self._check_there()
        self._seen = self._seen or bool(found)
        return found

    def _check_there(self) -> None:
        if self._seen and not self.storage.holds("concepts/"):
            log.error("%s had concepts and is empty now: is it mounted?", self.uri)
            raise StorageFault(CONCEPTS)


def open_concepts(uri: str) -> Concepts:
    """The registry at a folder or `s3://bucket/prefix`."""
    return Concepts(open_storage(uri))
