"""Resolves a manifest's entries to works: looks up foundations, clips and settings; collects all mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from infra.errors import NotFound, UserError
from infra.storage import open_storage
from training.batch.manifest.entries import Entry, Mistake
from training.batch.state.work import Work
from training.recommended import resolve

if TYPE_CHECKING:
    from datasets.clip_sets.clips import ClipFacts
    from models.foundations.base import Foundation
    from models.locating import FoundationFacts

Found = TypeVar("Found")


@dataclass
class Sources:
    """Foundations and clip sets, each read once."""

    foundations: dict[str | None, Foundation] = field(default_factory=dict)
    clip_sets: dict[str, dict[str, list[ClipFacts]]] = field(default_factory=dict)
    refused: dict[tuple[str, str | None], UserError] = field(default_factory=dict)
    remarks: dict[str, list[str]] = field(
        default_factory=dict
    )  # by work: parts of its clips and captions that are not used

    def foundation(self, source: str | None) -> Foundation:
        """A foundation without weights: sizes, defaults and fingerprint. Raises UserError."""
        from models.load import load_foundation

        def load(source: Any) -> Foundation:
            return load_foundation(source, device="cpu", parts=())

        return self._once("foundation", source, self.foundations, load)

    def clips(self, uri: str) -> dict[str, list[ClipFacts]]:
        """The clips of a set, by concept. Raises UserError."""
        from datasets.clip_sets.clips import read_facts

        return self._once("clips", uri, self.clip_sets, read_facts)

    def _once(self, kind: str, name: Any, found: dict[Any, Any], look: Callable[[Any], Any]) -> Any:
        if (kind, name) in self.refused:
            raise self.refused[kind, name]
        if name not in found:
            try:
                found[name] = look(name)
            except UserError as error:
                self.refused[kind, name] = error
                raise
        return found[name]


def resolve_entries(
    entries: Sequence[Entry], sources: Sources, workers: int | None = None
) -> tuple[list[Work], list[Mistake]]:
    """The works of all valid entries, and the mistakes of the others.

    Args:
        workers: workers per lane; None: as many as each entry asks for.
    """
    works, mistakes, said = [], [], set()
    for entry in entries:
        work, errors = resolve_entry(entry, sources, workers)
        if work is not None:
            works.append(work)
        for error in errors:
            if error.message not in said:  # report a shared foundation's or set's error once
                mistakes.append(Mistake(entry.line, f"{entry.name}: {error.message}"))
            if error in sources.refused.values():
                said.add(error.message)
    return works, mistakes


def resolve_entry(
    entry: Entry, sources: Sources, workers: int | None = None
) -> tuple[Work | None, list[UserError]]:
    """The work of one entry whose foundation, clips and settings fit together; or all its errors."""
    from training.runs.inputs import check_captions, foundation_source

    errors: list[UserError] = []

    def tried(look: Callable[[], Found]) -> Found | None:
        try:
            return look()
        except UserError as error:
            errors.append(error)
            return None

    foundation = tried(lambda: sources.foundation(foundation_source(entry.foundation)))
    clips = tried(lambda: clips_of(entry, sources))
    if clips is not None:
        tried(lambda: check_captions(clips))
    if foundation is None or clips is None or entry.refused:
        return None, errors
    work = tried(lambda: settle(entry, foundation, clips, workers, sources.remarks))
    return (None if errors else work), errors


def clips_of(entry: Entry, sources: Sources) -> list[ClipFacts]:
    """The clips of an entry's concept. Raises NotFound."""
    concepts = sources.clips(entry.data)
    if entry.concept not in concepts:
        names = sorted(concepts)
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise NotFound(
            f"no clips of concept {entry.concept!r} at {entry.data}; concepts there: {shown or 'none'}.",
            code="concept_not_found",
        )
    return concepts[entry.concept]


def settle(
    entry: Entry,
    foundation: Foundation | FoundationFacts,
    clips: Sequence[ClipFacts],
    workers: int | None,
    remarks: dict[str, list[str]],
) -> Work:
    """The work of an entry whose foundation and clips exist. Adds to `remarks` what is not used of the clips.

    Raises UserError if its settings do not suit them, or no lane can train it.
    """
    from training.described import data_sha256
    from training.runs.inputs import foundation_source, learned_parts, pace_of, remarks_on

    config = resolve(entry.settings, foundation.recommended, len(clips))
    bucket, parts = learned_parts(config, foundation.sizes, clips)
    if len(parts) > len(clips):  # each window of a long clip counts as a clip
        config = resolve(entry.settings, foundation.recommended, len(parts))
    work = Work(
        name=entry.name,
        concept=entry.concept,
        data=open_storage(entry.data).uri,
        data_sha256=data_sha256(parts),
        clips=len(parts),
        foundation=foundation_source(entry.foundation),
        fingerprint=foundation.fingerprint,
        config=config.model_copy(
            update={"frames": bucket.frames, "height": bucket.height, "width": bucket.width}
        ),
        priority=entry.priority,
        fps=pace_of(config, foundation.sizes).fps,
    )
    work.check_lane(workers)
    if said := remarks_on(parts, foundation, config):
        remarks[work.name] = said
    return work
