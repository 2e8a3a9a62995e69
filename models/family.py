"""What a model family says of its checkpoints before one is loaded, and the registry of families. Imports no torch.

To add a family: a module in `models/families/` with a registered `FamilySpec` and its import in that package; a module of
the `Foundation` that the spec names; a recipe in `models/tiny.py`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from infra.errors import UserError
from models.sizes import Sizes
from models.text import TextLimit

if TYPE_CHECKING:
    from models.foundation import Foundation

FAMILIES: dict[str, FamilySpec] = {}  # by the class name of their pipelines


class FamilySpec(ABC):
    """One model family. Subclasses set the class attributes and are registered with `@register`."""

    name: ClassVar[str]
    pipeline_class: ClassVar[str]  # of diffusers, as model_index.json names it
    components: ClassVar[dict[str, tuple[str, ...]]]  # of the pipeline: "denoiser", "text" and "vae"
    vae_dtype: ClassVar[str | None] = None  # where the VAE needs another precision than the rest

    @abstractmethod
    def sizes(self, folder: Path, name: str, recommended: dict[str, Any]) -> Sizes:
        """The sizes of a checkpoint. Raises UserError for one that no module serves, or that cannot be read."""

    @abstractmethod
    def text_limit(self, folder: Path, name: str) -> TextLimit:
        """How much of a prompt a checkpoint reads."""

    @abstractmethod
    def foundation_class(self) -> type[Foundation]:
        """The class that serves a loaded pipeline; imported late, since it needs torch."""


def register(spec: type[FamilySpec]) -> type[FamilySpec]:
    """Class decorator: make a family known."""
    assert spec.pipeline_class not in FAMILIES, f"{spec.pipeline_class} has two families"
    FAMILIES[spec.pipeline_class] = spec()
    return spec


def read_config(folder: Path, component: str) -> dict[str, Any]:
    """A component's configuration; the pipeline's index for ""."""
    path = folder / component / "config.json" if component else folder / "model_index.json"
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the foundation's {path} cannot be read ({reason}); fetch the checkpoint again."
        ) from None
