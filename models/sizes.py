"""The sizes of videos that a foundation makes, from its configuration files: imports no torch.

`ingest` needs no more than this of a model, and would wait for its libraries for many times as long as it reads a clip.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infra.errors import InvalidInput, UserError
from models.locating import family_of, foundation_name, locate, read_recommended


@dataclass(frozen=True, order=True)
class Bucket:
    """The size of a video: frames and pixels."""

    frames: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"

    @classmethod
    def parse(cls, text: str) -> Bucket:
        """From `FRAMESxHEIGHTxWIDTH`. Raises UserError."""
        try:
            frames, height, width = (int(part) for part in text.lower().split("x"))
        except ValueError:
            raise UserError(f"size {text!r} is not FRAMESxHEIGHTxWIDTH, such as 16x256x256.") from None
        return cls(frames, height, width)


@dataclass(frozen=True)
class Defaults:
    """What to generate with when a request does not say."""

    bucket: Bucket
    fps: int
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """By the names that a request has (models/generation.py)."""
        return {
            "negative_prompt": self.negative_prompt,
            "steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            **asdict(self.bucket),
        }


@dataclass(frozen=True)
class Sizes:
    """Which sizes suit a foundation, and which it takes when nobody says."""

    name: str
    defaults: Defaults
    spatial_scale: int  # pixels of one latent
    temporal_scale: int  # frames of one latent: counts are a multiple of it, plus 1 where it is not 1
    multiples: tuple[int, int]  # of height and width

    def check(self, bucket: Bucket) -> None:
        """Raises InvalidInput ("invalid_size") for a size that the model cannot make."""
        if self.temporal_scale == 1:
            require_multiple("frame count", bucket.frames, 1, self.name)
        elif bucket.frames < 1 or (bucket.frames - 1) % self.temporal_scale:
            low = max(1, (bucket.frames - 1) // self.temporal_scale * self.temporal_scale + 1)
            raise InvalidInput(
                f"frame count {bucket.frames} does not suit {self.name}; it must be a multiple of "
                f"{self.temporal_scale} plus 1, such as {low}.",
                code="invalid_size",
            )
        require_multiple("height", bucket.height, self.multiples[0], self.name)
        require_multiple("width", bucket.width, self.multiples[1], self.name)


def require_multiple(what: str, value: int, multiple: int, name: str) -> None:
    """Raises InvalidInput unless `value` is a positive multiple."""
    if value < 1 or value % multiple:
        low = max(multiple, value // multiple * multiple)
        raise InvalidInput(
            f"{what} {value} does not suit {name}; it must be a multiple of {multiple}, such as {low}.",
            code="invalid_size",
        )


def foundation_sizes(source: str | None = None) -> Sizes:
    """The sizes of a foundation that is not loaded. Raises UserError where there is none."""
    folder = locate(source)
    family = family_of(folder, str(source or "the embedded foundation"))
    return sizes_of(folder, family, foundation_name(source), read_recommended(folder))


def sizes_of(folder: Path, family: str, name: str, recommended: dict[str, Any]) -> Sizes:
    """The sizes of a checkpoint.

    Raises:
        UserError: Wan 2.2's two experts, which no family module serves; a configuration that cannot be read.
    """
    generation = recommended.get("generation", {})
    vae = _config(folder, "vae")
    if family == "wan":
        if (_config(folder, "") or {}).get("transformer_2", [None])[0]:
            raise UserError(
                f"{name} has two denoising experts (Wan 2.2), which this version cannot customize; "
                "use a Wan 2.1 checkpoint.",
                code="unsupported_foundation",
            )
        _, patch_height, patch_width = _config(folder, "transformer").get("patch_size") or (1, 2, 2)
        spatial, temporal = vae.get("scale_factor_spatial") or 8, vae.get("scale_factor_temporal") or 4
        usual = Defaults(Bucket(81, 480, 832), fps=16, num_inference_steps=50, guidance_scale=5.0)
        multiples = (spatial * patch_height, spatial * patch_width)
    else:
        spatial, temporal = 2 ** (len(vae["block_out_channels"]) - 1), 1
        side = _config(folder, "unet").get("sample_size") or 32
        height, width = (side, side) if isinstance(side, int) else side
        usual = Defaults(
            Bucket(16, height * spatial, width * spatial), fps=8, num_inference_steps=30, guidance_scale=12.0
        )
        multiples = (spatial, spatial)
    defaults = Defaults(
        bucket=Bucket(
            generation.get("frames", usual.bucket.frames),
            generation.get("height", usual.bucket.height),
            generation.get("width", usual.bucket.width),
        ),
        fps=generation.get("fps", usual.fps),
        num_inference_steps=generation.get("num_inference_steps", usual.num_inference_steps),
        guidance_scale=generation.get("guidance_scale", usual.guidance_scale),
        negative_prompt=generation.get("negative_prompt", ""),
    )
    return Sizes(name, defaults, spatial, temporal, multiples)


def _config(folder: Path, component: str) -> dict[str, Any]:
    """A component's configuration; the pipeline's index for ""."""
    path = folder / component / "config.json" if component else folder / "model_index.json"
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the foundation's {path} cannot be read ({reason}); fetch the checkpoint again."
        ) from None
