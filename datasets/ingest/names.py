"""Values by file: what a table of captions or a folder of masks says about the videos that an ingest reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Generic, Protocol, TypeVar

from infra.paths import composed

Value = TypeVar("Value")
Parts = tuple[str, ...]


class Named(Protocol):
    """A source of an ingest: its path or URI."""

    @property
    def uri(self) -> str: ...


class ByFile(Generic[Value]):
    """Values by file name, for videos found elsewhere: matched by the whole path, its end, or the name alone.

    Args:
        suffixes: False leaves the suffix of names out of the comparison.
    """

    def __init__(self, *, suffixes: bool = True) -> None:
        self.suffixes = suffixes
        self.by_parts: dict[Parts, Value] = {}

    def add(self, name: str, value: Value) -> Value:
        """The value of this name: the given one, unless it has one already."""
        return self.by_parts.setdefault(self.parts(name), value)

    def parts(self, uri: str) -> Parts:
        """The parts of a path for comparison, with separators and Unicode composition normalized."""
        path = PurePosixPath(composed(uri).replace("\\", "/"))
        if not self.suffixes:
            path = path.parent / path.stem
        return tuple(part for part in path.parts if part not in (".", "/"))

    def get(self, uri: str) -> Value | None:
        """The value of the longest name that the source's path ends with, or None."""
        parts = self.parts(uri)
        for start in range(len(parts)):
            if parts[start:] in self.by_parts:
                return self.by_parts[parts[start:]]
        return None

    def unused(self, sources: Iterable[Named]) -> list[str]:
        """Names that match no source."""
        every = [self.parts(source.uri) for source in sources]
        ends = {parts[start:] for parts in every for start in range(len(parts))}
        return ["/".join(parts) for parts in self.by_parts if parts not in ends]
