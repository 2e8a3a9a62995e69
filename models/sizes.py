"""The sizes of videos that a foundation makes: imports no torch.

`ingest` needs no more than this of a model, and would wait for its libraries for many times as long as it reads a clip.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from infra.errors import InvalidInput, UserError


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

    def updated(self, generation: dict[str, Any]) -> Defaults:
        """With what a checkpoint's own recommendation says in their place (`generation` in recommended.yaml)."""
        return Defaults(
            bucket=Bucket(
                generation.get("frames", self.bucket.frames),
                generation.get("height", self.bucket.height),
                generation.get("width", self.bucket.width),
            ),
            fps=generation.get("fps", self.fps),
            num_inference_steps=generation.get("num_inference_steps", self.num_inference_steps),
            guidance_scale=generation.get("guidance_scale", self.guidance_scale),
            negative_prompt=generation.get("negative_prompt", self.negative_prompt),
        )


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
