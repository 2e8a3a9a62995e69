"""One video to make, from the HTTP request to the forward. Imports no torch.

Every description of a video uses these classes, so a new setting is added once and travels all the way:

    GenerationSettings  <- the HTTP request and answer (serving/schemas.py), evaluation (evaluation/evaluate.py)
    GenerationParams    <- the input of `models.denoise`; the stored job is one (serving/requests.py)
    AdapterSettings     <- an entry of `lora` (serving/schemas.py), evaluation
    AdapterUse          <- an adapter of the stored job, named by version and hash (serving/schemas.py)
    SlotUse             <- an adapter in a slot of the bank, as the forward takes it
    NoisePrior          <- whose noise a video starts from: named in HTTP, pinned in the stored job (serving/schemas.py)
    InvertedNoise       <- a noise prior with its latents, as the forward takes it

Conversions are at the edges only: HTTP's names in `serving.requests.resolve`, slots and latents in
`GenerationParams.in_slots`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SkipValidation

from models.sizes import Bucket, Defaults

LoraPath = Literal["spatial", "temporal"]


class AdapterSettings(BaseModel):
    """How an adapter acts on a video."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: Annotated[float, Field(allow_inf_nan=False)] = 1.0  # 1 is the adapter as trained, 0 is off
    # Left out of JSON at its default, so that older servers and stored jobs can still read it.
    until: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            exclude_if=lambda until: until == 1.0,
            description="the adapter acts in this first part of the denoising steps: 0.5 is the first half, 1 all",
        ),
    ] = 1.0

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of this class alone, without those of a subclass."""
        return {name: getattr(self, name) for name in AdapterSettings.model_fields}


class AdapterUse(AdapterSettings):
    """An adapter of one path that a video uses. Subclasses identify it by version or by slot."""

    path: LoraPath

    def in_slot(self, slot: int) -> SlotUse:
        """The same use, of the adapter in a slot of the bank."""
        return SlotUse(**{name: getattr(self, name) for name in AdapterUse.model_fields}, slot=slot)


class SlotUse(AdapterUse):
    """A slot of the bank that a video uses."""

    slot: int


class NoisePrior(BaseModel):
    """How much of a reference clip's inverted noise a video starts from (models/inversion.py).

    Subclasses say whose noise it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            allow_inf_nan=False,
            description="p of sqrt(p) * inverted + sqrt(1 - p) * noise: 0 is without the prior; the paper has 0.1 to 0.5",
        ),
    ]


class InvertedNoise(NoisePrior):
    """A noise prior with its latents."""

    noise_Cfhw: SkipValidation[Any]  # a torch.Tensor, as `models.inversion.invert` returns it
    source: str  # identifies the clip in the metadata of the video


class GenerationSettings(BaseModel):
    """How a video is made. None takes the foundation's default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    negative_prompt: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    scheduler: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of this class alone, without those of a subclass."""
        return {name: getattr(self, name) for name in GenerationSettings.model_fields}


class GenerationParams(GenerationSettings):
    """One video to make."""

    prompt: str
    seed: int = 0
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    adapters: tuple[AdapterUse, ...] = ()
    noise_prior: NoisePrior | None = None

    def in_slots(self, slots: Sequence[int], noise: InvertedNoise | None = None) -> GenerationParams:
        """The same video as `models.denoise` takes it.

        Args:
            slots: of the bank, which hold the adapters, in order.
            noise: the noise prior with its latents; None if there is no prior or it has them already.
        """
        given = {name: getattr(self, name) for name in GenerationParams.model_fields}
        uses = tuple(use.in_slot(slot) for use, slot in zip(self.adapters, slots, strict=True))
        return GenerationParams(**{**given, "adapters": uses, "noise_prior": noise or self.noise_prior})

    def resolved(self, defaults: Defaults) -> ResolvedParams:
        """The same video with the foundation's defaults in place of None."""
        given = {name: getattr(self, name) for name in GenerationParams.model_fields}
        return ResolvedParams(**filled(given, defaults.settings))


class ResolvedParams(GenerationParams):
    """One video to make, with every default filled in."""

    negative_prompt: str
    steps: int
    guidance_scale: float
    frames: int
    height: int
    width: int

    @property
    def bucket(self) -> Bucket:
        """The size of the video."""
        return Bucket(self.frames, self.height, self.width)


def filled(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The given values, with defaults in place of None where there are any."""
    return {name: defaults.get(name) if value is None else value for name, value in given.items()}
