"""The library: concepts for the embedded model that ship with the project, in a registry folder of their own.

`assets/library/make_library.py` made them. `add_library` copies them into a registry. `serve`, and `generate` with a concept, do
that themselves if they use the default registry and it has no concept yet (`fill_if_new`).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.errors import NotFound
from infra.paths import ROOT
from infra.registry import DEFAULT_REGISTRY, Registry, Version, open_registry, similar
from models.adapters.versions import fidelity, preview_file

FOLDER = ROOT / "assets" / "library"
ABOUT = "about.json"  # a sentence on each concept, by name


@dataclass(frozen=True)
class LibraryConcept:
    """A concept that ships with the project."""

    version: Version
    about: str  # what moves, and how

    @property
    def name(self) -> str:
        return self.version.concept

    @property
    def fidelity(self) -> float | None:
        """Motion fidelity in looks that it was not trained on, measured when it was made."""
        return fidelity(self.version)

    @property
    def preview(self) -> bytes:
        """Its sample video, an mp4."""
        return shipped_registry().read(self.version, preview_file(self.version) or "preview.mp4")


def shipped_registry() -> Registry:
    """The library's own registry."""
    return open_registry(FOLDER / "registry")


def library() -> list[LibraryConcept]:
    """All concepts of the library, by name."""
    shipped, about = shipped_registry(), json.loads((FOLDER / ABOUT).read_text())
    return [LibraryConcept(shipped.resolve(info.name), about[info.name]) for info in shipped.concepts()]


def add_library(registry: str = DEFAULT_REGISTRY, names: Sequence[str] = ()) -> list[Version]:
    """Copy concepts of the library into a registry.

    A concept that is there from an earlier copy is not copied again. If another concept has its name, the copy
    becomes that name's next version.

    Args:
        registry: folder or s3:// URI.
        names: of the concepts; empty: all.

    Returns:
        The versions in the registry.

    Raises:
        NotFound: the library has no concept of that name.
        UserError: the registry cannot be written.
    """
    shipped_concepts = {concept.name: concept for concept in library()}
    found = {name: concept.version for name, concept in shipped_concepts.items()}
    for name in names:
        if name not in found:
            near = similar(name, list(found)) or sorted(found)
            raise NotFound(
                f"the library has no concept {name[:64]!r}; choose from {', '.join(near)} (`motiondirector library` lists all).",
                code="concept_not_found",
            )
    shipped, target = shipped_registry(), open_registry(registry)
    added = []
    with tempfile.TemporaryDirectory(prefix="motiondirector-library-") as folder:
        for name in names or found:
            version = found[name]
            files = shipped.pull(version, Path(folder) / name)
            added.append(
                target.publish(
                    name,
                    files,
                    metadata={**version.metadata, "about": shipped_concepts[name].about},
                    metrics=version.metrics,
                    once=f"library-{version.adapter_sha256}",
                )
            )
    return added


def fill_if_new(registry: str, foundation: str | None) -> int:
    """Copy the library into the default registry if it has no concept yet; the number of concepts copied.

    Does nothing for another registry, which somebody chose, and for another model than the embedded one.
    """
    if (
        registry != DEFAULT_REGISTRY
        or foundation is not None
        or open_registry(registry).storage.holds("concepts/")
    ):
        return 0
    return len(add_library(registry))
