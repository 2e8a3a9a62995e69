"""What a model family knows about its checkpoints before loading, and the registry of families. No torch.

To add a family, write a module in `models/families/` with a registered `FamilySpec` and import it in
that package; a module with the `Foundation` subclass that the spec names; and a recipe in
`models/tiny/`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from infra.errors import UserError
from models.sizes import Sizes
from models.text import TextLimit

if TYPE_CHECKING:
    from models.foundations.base import Foundation

FAMILIES: dict[str, FamilySpec] = {}  # by pipeline class name


class Sourced(NamedTuple):
    """A recommended value and who recommends it."""

    value: Any
    source: str


class FamilySpec(ABC):
    """One model family. Subclasses set the class attributes and are registered with `@register`."""

    name: ClassVar[str]
    title: ClassVar[str]  # the models of the family, for people
    pipeline_class: ClassVar[str]  # of diffusers, as in model_index.json
    components: ClassVar[dict[str, tuple[str, ...]]]  # the pipeline's "denoiser", "text" and "vae"
    unused: ClassVar[tuple[str, ...]] = ()  # components of the pipeline that are never loaded
    looked_at: ClassVar[frozenset[str]] = frozenset()  # those that its constructor cannot do without
    vae_dtype: ClassVar[str | None] = None  # if the VAE needs another precision than the rest
    defaults: ClassVar[dict[str, Sourced]]  # `Defaults` of each kind of checkpoint
    training: ClassVar[dict[str, Sourced]] = {}  # settings that suit its trainings better than the defaults
    limits: ClassVar[tuple[str, ...]] = ()  # what does not work, each in a few words

    @property
    def recommended(self) -> dict[str, Any]:
        """The recommendations in the form of a checkpoint's recommended.yaml, whose sections replace these."""
        return {"training": {name: one.value for name, one in self.training.items()}} if self.training else {}

    @abstractmethod
    def sizes(self, folder: Path, name: str, recommended: dict[str, Any]) -> Sizes:
        """The sizes of a checkpoint. Raises UserError if it is unsupported or cannot be read."""

    @abstractmethod
    def text_limit(self, folder: Path, name: str) -> TextLimit:
        """How much of a prompt a checkpoint reads."""

    comfyui: ClassVar[bool] = False  # whether `original_names` are those of the node editor, tested

    def original_names(self, layer: str) -> tuple[tuple[str, int], ...]:
        """The names of a layer of the denoiser in its authors' code, which other tools use, the node editor's first.

        Each with the layer's number among those that one matrix holds there; 0 if it holds this one alone.
        """
        return ((layer, 0),)

    @abstractmethod
    def foundation_class(self) -> type[Foundation]:
        """The class that wraps a loaded pipeline; imported late because it needs torch."""


def register(spec: type[FamilySpec]) -> type[FamilySpec]:
    """Class decorator that adds a family to the registry."""
    assert spec.pipeline_class not in FAMILIES, f"{spec.pipeline_class} has two families"
    FAMILIES[spec.pipeline_class] = spec()
    return spec


def read_config(folder: Path, component: str) -> dict[str, Any]:
    """A component's configuration, or the pipeline's index for "". Raises UserError if it cannot be read."""
    name = {"": "model_index.json", "tokenizer": "tokenizer_config.json"}.get(component, "config.json")
    path = folder / component / name
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the foundation's {path} cannot be read ({reason}); download the checkpoint again."
        ) from None
