"""The registry as one tenant sees it: its own concepts, those of everyone, and those shared with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from infra.errors import DamagedData
from infra.registry import Registry, Version, parse_ref, similar
from serving.adapters.concepts import Concepts
from serving.adapters.model_list import VersionSummary
from serving.tenants.namespaces import Namespace, split_name


class TenantConcepts(Registry):
    """Resolves the names of one request. Versions have the name that the tenant uses.

    A concept that the tenant may not see is answered like one that does not exist, also in hints.
    """

    overview = Concepts.overview
    shown = Concepts.shown

    def __init__(self, concepts: Concepts, namespace: Namespace) -> None:
        super().__init__(concepts.storage)
        self._concepts, self.namespace = concepts, namespace
        self._found: dict[str, tuple[str | None, set[int], set[int]]] = {}

    def near(self, name: str) -> list[str]:
        """Up to three names that are similar, among those that the tenant sees."""
        seen = map(self.namespace.seen, self._concepts.names())
        return similar(name, list(dict.fromkeys(concept for concept in seen if concept is not None)))

    def find(self, ref: str) -> tuple[str, int]:
        self._found.clear()
        found = super().find(ref)
        self._concepts.record_content()
        return found

    def numbers(self, concept: str, what: str) -> set[int]:
        _, published, removed = self._look_up(concept)
        return published if what == "versions" else removed

    def resolve(self, ref: str) -> Version:
        """Also raises StorageFault if the registry is unreachable."""
        with self._concepts.listed_a_moment_ago():
            return super().resolve(ref)

    def load(self, concept: str, number: int, *, added_metrics: bool = True) -> Version:
        name = self._look_up(concept)[0] or concept
        try:
            version = self._concepts.load(name, number, added_metrics=added_metrics)
        except DamagedData as error:
            if name == concept:
                raise
            raise error.reworded(
                f"{concept}@{number} is damaged in {self.shown}; delete it and train it again."
            ) from None
        return replace(version, concept=concept)

    def owner(self, concept: str) -> str | None:
        name = self._look_up(concept)[0]
        return None if name is None else split_name(name)[0]

    def own(self, ref: str) -> list[int]:
        """The versions of a concept of the tenant's own that a reference means (`name`: all). Empty if none."""
        concept, number = parse_ref(ref)
        name = self.namespace.own(concept)
        if name is None:
            return []
        kept = self._concepts.numbers(name, "versions") - self._concepts.numbers(name, "removed")
        return sorted(kept if number is None else kept & {number})

    def _look_up(self, concept: str) -> tuple[str | None, set[int], set[int]]:
        """(name in the registry, published, removed) of the concept that a name means; (None, ...) of none."""
        if concept not in self._found:
            self._found[concept] = next(self._present(concept), (None, set(), set()))
        return self._found[concept]

    def _present(self, concept: str) -> Iterator[tuple[str | None, set[int], set[int]]]:
        for name in self.namespace.candidates(concept):
            published = self._concepts.numbers(name, "versions")
            removed = self._concepts.numbers(name, "removed") if published else set()
            if published - removed:
                yield name, published, removed


@dataclass(frozen=True)
class SeenVersion:
    """A version in a tenant's list."""

    version: VersionSummary
    concept: str  # the tenant's name for it
    owner: str | None  # id of the tenant whose own it is; None: everyone's

    @property
    def ref(self) -> str:
        """`name@3`."""
        return f"{self.concept}@{self.version.number}"


def seen_versions(versions: Sequence[VersionSummary], namespace: Namespace) -> list[SeenVersion]:
    """The versions that a tenant can name, in the order of its names for them."""
    present = {version.concept for version in versions}
    meant: dict[str, str | None] = {}
    found = []
    for version in versions:
        concept = namespace.seen(version.concept)
        if concept is None:
            continue
        if concept not in meant:
            meant[concept] = next((name for name in namespace.candidates(concept) if name in present), None)
        if meant[concept] == version.concept:
            found.append(SeenVersion(version, concept, split_name(version.concept)[0]))
    return sorted(found, key=lambda seen: (seen.concept, seen.version.number))
