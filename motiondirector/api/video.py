"""What every function that makes a video shares: its options, and the video that it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator

from infra.setting import setting
from models.dtypes import Dtype
from models.generation import GenerationSettings

if TYPE_CHECKING:
    import numpy as np

MOTION = "Motion and appearance"
PRIOR = "Noise prior"
VIDEO = "Video"
MODEL = "Model (without --server)"

Progress = Callable[[str, int, int, str], None]  # (what, done, total, a note)


class VideoConfig(GenerationSettings):
    """How a video is made, apart from the adapters, which a subclass names. None: the model's default."""

    outside: Literal["base"] | None = setting(
        None, MOTION, "base: outside all regions, the base model's video. Takes twice as long."
    )
    noise_prior: float | None = setting(
        None,
        PRIOR,
        "Start from the noise of a reference clip with this weight: p in sqrt(p) * inverted + sqrt(1 - p) * noise. The paper "
        "uses 0.1 to 0.5 for a motion of one clip.",
        ge=0,
        le=1,
    )
    prior_concept: str | None = setting(
        None,
        PRIOR,
        "Concept whose noise prior is used: NAME or NAME@VERSION, trained with --noise-prior. Absent: the one whose motion is used.",
    )
    prior_clip: str | None = setting(
        None,
        PRIOR,
        "Clip whose noise is used, instead of a concept's: a video file, or SET#CLIP for a clip of a clip set. Not with "
        "--server.",
    )
    seed: int | None = setting(
        None, VIDEO, "Random seed: the same seed gives the same video. Absent: drawn and printed."
    )
    steps: int | None = setting(None, VIDEO, "Denoising steps. Absent: the model's default.")
    guidance_scale: float | None = setting(None, VIDEO, "How closely to follow the prompt.")
    negative_prompt: str | None = setting(None, VIDEO, "What the video should not show.")
    size: str | None = setting(None, VIDEO, "WIDTHxHEIGHT in pixels.")
    frames: int | None = setting(None, VIDEO, "Length in frames.")
    image: str | None = setting(
        None,
        VIDEO,
        "Image file that the video begins with, for an image-to-video model; it is scaled and cropped to the video. With --server "
        "also for others, which learn its appearance first.",
    )
    scheduler: str | None = setting(None, VIDEO, "For example ddim, dpm++ or flow-euler.")
    foundation: str | None = setting(None, MODEL, "Model folder or hub id. Absent: the embedded one.")
    adapter_layers: Literal["own", "all"] = setting(
        "own", MODEL, "all: for adapters of other tools that change more layers than those trained here."
    )
    device: str | None = setting(None, MODEL, "cpu, cuda, cuda:1 ... Absent: a GPU if there is one.")
    dtype: Dtype | None = setting(
        None,
        MODEL,
        "Precision of the model. Absent: bf16 on a GPU, fp32 on a CPU.",
        metavar="fp32|bf16|fp16",
    )
    quantize: Literal["none", "int8"] = setting(
        "none", MODEL, "int8: the weights of the model's blocks have one byte per value, half of bf16."
    )
    offload: Literal["none", "encoders"] = setting(
        "none",
        MODEL,
        "encoders: the text encoder and the VAE wait in host memory, and come to the GPU while they work.",
    )

    @property
    def model_name(self) -> str:
        """`model` of the request."""
        return "foundation"

    @property
    def adapters(self) -> list[tuple[dict[str, Any], str]]:
        """The entries of the request's `lora`, and how the options of each begin on the command line."""
        return []

    @property
    def whose_noise(self) -> str | None:
        """The concept whose noise prior is used."""
        return self.prior_concept

    @model_validator(mode="after")
    def _one_noise(self) -> Self:
        if self.noise_prior is None and (self.prior_concept or self.prior_clip):
            raise ValueError("--prior-concept and --prior-clip need a weight; add --noise-prior, such as 0.3")
        if self.prior_concept and self.prior_clip:
            raise ValueError("--prior-concept and --prior-clip are both given; give one of them")
        if self.noise_prior is not None and not (self.prior_clip or self.whose_noise):
            raise ValueError(
                "--noise-prior needs a concept or a clip whose noise it uses; give --concept, --prior-concept or --prior-clip"
            )
        return self


@dataclass(frozen=True)
class Video:
    """A video and how it was made. The mp4's metadata has the same facts, and the adapters' hashes."""

    mp4: bytes
    used: str  # the motion's version, or "foundation"
    seed: int
    steps: int
    size: str  # WIDTHxHEIGHT
    length: int  # frames
    warnings: tuple[str, ...] = ()

    @property
    def frames_FHWC(self) -> np.ndarray:
        """The frames, decoded: uint8 [frames, height, width, 3]."""
        from datasets.video.decode import decode

        return decode(self.mp4).frames_FHWC

    def save(self, path: str | Path) -> Path:
        """Write the mp4 atomically; creates its folder."""
        from infra.files import atomic_file

        with atomic_file(Path(path)) as temporary:
            temporary.write_bytes(self.mp4)
        return Path(path)

    def __str__(self) -> str:
        return f"{self.used}, seed {self.seed}, {self.steps} steps, {self.size}, {self.length} frames"
