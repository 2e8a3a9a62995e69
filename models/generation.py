"""One video to make, from the HTTP request to the forward. Imports no torch.

Every description of a video uses these classes, so a new setting is added once and travels all the way:

    GenerationSettings  <- the HTTP request and answer (serving/schemas.py), evaluation (evaluation/evaluate.py)
    GenerationParams    <- the input of `models.denoise`; the stored job is one (serving/requests.py)
    AdapterSettings     <- an entry of `lora` (serving/schemas.py), evaluation
    AdapterUse          <- an adapter of the stored job, named by version and hash (serving/schemas.py)
    SlotUse             <- an adapter in a slot of the bank, as the forward takes it
    NoisePrior          <- whose noise a video starts from: named in HTTP, pinned in the stored job (serving/schemas.py)
    InvertedNoise       <- a noise prior with its latents, as the forward takes it
    BeginningImage      <- the image that a video begins with: a stored file in the stored job (serving/schemas.py)
    InputImage          <- such an image with its pixels, as the forward takes it

Conversions are at the edges only: HTTP's names in `serving.requests.resolve`, slots and latents in
`GenerationParams.in_slots`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SkipValidation, model_validator

from infra.errors import InvalidInput
from models.regions.region import Region
from models.sizes import Bucket, Defaults

LoraPath = Literal["spatial", "temporal"]
MAX_SCALE = 4.0  # an adapter beyond it only breaks the picture
# Scale of an appearance beside a motion: at 1 it holds the object where its image or clip has it (docs/uses.md).
APPEARANCE_SCALE = 0.5
MAX_PHASES = 100
ALL_STEPS = (0.0, 1.0)


def is_none(value: object) -> bool:
    return value is None


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_scale(scale: Any) -> Any:
    """Check for a number, or a list of them, from -MAX_SCALE to MAX_SCALE."""
    scales = list(scale) if isinstance(scale, list | tuple) else [scale]
    if not 1 <= len(scales) <= MAX_PHASES or not all(
        is_number(one) and -MAX_SCALE <= one <= MAX_SCALE for one in scales
    ):
        raise ValueError(
            f"expected a number from -{MAX_SCALE:g} to {MAX_SCALE:g}, or a list of 1 to {MAX_PHASES}, one for each phase"
        )
    return tuple(float(one) for one in scales) if isinstance(scale, list | tuple) else float(scale)


def check_window(steps: Any) -> Any:
    """Check for two fractions in increasing order, or None."""
    if steps is None:
        return None
    if isinstance(steps, list | tuple) and len(steps) == 2 and all(map(is_number, steps)):
        start, end = steps
        if 0 <= start < end <= 1:
            return (float(start), float(end))
    raise ValueError("expected [from, to] as fractions of the denoising steps, 0 <= from < to <= 1")


Scale = Annotated[float, Field(ge=-MAX_SCALE, le=MAX_SCALE)]


class AdapterSettings(BaseModel):
    """How an adapter acts on a video.

    Step i of n (from 0) uses it if `steps[0] <= i / n < steps[1]`; None is [0, 1] here. k numbers in `scale` divide that window into
    k equal phases: such a step is in phase floor(k * (i / n - steps[0]) / (steps[1] - steps[0])), from 0, and takes
    that number. Scales are constant within a phase; a phase without a step of its own has no effect.

    Fields added later are left out of JSON at their default: older servers and stored jobs can read the rest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: Annotated[
        Scale | tuple[Scale, ...],
        Field(
            description="1 is the adapter as trained, 0 is off; or a list, one for each phase of `steps`",
        ),
        BeforeValidator(check_scale),
    ] = 1.0
    steps: Annotated[
        tuple[float, float] | None,
        Field(
            exclude_if=is_none,
            description="[from, to]: the adapter acts in this part of the denoising steps; [0, 0.5] is the first half. "
            "Absent: as its version says, otherwise in all",
        ),
        BeforeValidator(check_window),
    ] = None
    region: Annotated[
        Region | None,
        Field(exclude_if=is_none, description="the part of the frame in which it acts; absent: all"),
    ] = None
    # Requests and stored jobs of before `steps` have this instead. It becomes `steps` and is never written.
    until: Annotated[
        float | None,
        Field(
            gt=0,
            le=1,
            exclude=True,
            description="0.5 is `steps` [0, 0.5]",
            json_schema_extra={"deprecated": True},
        ),
    ] = None

    @model_validator(mode="after")
    def window_of_until(self) -> Self:
        if self.until is not None:
            if self.steps is not None:
                raise ValueError("expected `steps` or `until`, not both")
            object.__setattr__(self, "steps", (0.0, self.until))
            object.__setattr__(self, "until", None)
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of this class alone, without those of a subclass and `until`."""
        return {name: getattr(self, name) for name in AdapterSettings.model_fields if name != "until"}

    @property
    def shown(self) -> Self:
        """The same with a hash in place of a mask's images, for answers and reports."""
        return self if self.region is None else self.model_copy(update={"region": self.region.shown})

    def scale_at(self, progress: float) -> float:
        """The scale of the step that begins at this share of the steps (0 to 1); 0 outside the window."""
        start, end = self.steps or ALL_STEPS
        if not start <= progress < end:
            return 0.0
        if not isinstance(self.scale, tuple):
            return self.scale
        phases = len(self.scale)
        # The small number is for shares such as 0.3 - 0.1, which float arithmetic puts just below a phase's start.
        return self.scale[min(phases - 1, int(phases * (progress - start) / (end - start) + 1e-9))]


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


class BeginningImage(BaseModel):
    """The image that a video begins with, for a model that takes one (`Foundation.takes_image`).

    Subclasses say where its pixels are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str  # identifies it in the metadata of the video


class InputImage(BeginningImage):
    """An image with its pixels."""

    pixels_HWC: SkipValidation[Any]  # a uint8 numpy array of any size; it is cropped to the video's


class GenerationSettings(BaseModel):
    """How a video is made. None takes the foundation's default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    negative_prompt: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    scheduler: str | None = None
    outside: Annotated[
        Literal["base"] | None,
        Field(
            exclude_if=is_none,
            description="`base`: outside the regions of all adapters the video is that of the base model, at twice the cost",
        ),
    ] = None

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
    image: Annotated[BeginningImage | None, Field(exclude_if=is_none)] = None

    @property
    def follows_base(self) -> bool:
        """Whether the base model's trajectory is computed as well. Without adapters the video is the base model's."""
        return self.outside == "base" and bool(self.adapters)

    def check_outside(self) -> None:
        """Raise InvalidInput if there is no outside: an adapter acts in the whole frame."""
        if self.follows_base and any(use.region is None for use in self.adapters):
            raise InvalidInput(
                "outside: base needs a region for every adapter, and one has none; give it one, or leave `outside` out.",
                code="invalid_region",
            )

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
