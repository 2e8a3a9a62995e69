"""The video sizes that a foundation supports. Imports no torch.

`ingest` needs nothing else of a model, and loading a model's libraries takes many times as long as
reading a clip.
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
    """The settings for a request that gives none."""

    bucket: Bucket
    fps: int
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """The defaults by the names of request fields (models/generation.py)."""
        return {
            "negative_prompt": self.negative_prompt,
            "steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            **asdict(self.bucket),
        }

    def updated(self, generation: dict[str, Any]) -> Defaults:
        """These defaults, overridden by a checkpoint's `generation` section of recommended.yaml."""
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
    """The sizes that a foundation supports, and its defaults."""

    name: str
    defaults: Defaults
    spatial_scale: int  # pixels per latent
    temporal_scale: int  # frames per latent
    multiples: tuple[int, int]  # of which height and width must be multiples
    frame_step: int = 0  # frame counts are a multiple of it plus 1, if it is not 1; 0: as `temporal_scale`
    most_frames: int | None = None  # None: the model has no limit of its own

    def check(self, bucket: Bucket) -> None:
        """Raise InvalidInput ("invalid_size") for a size that the model does not support."""
        self._check_frames(bucket.frames)
        require_multiple("height", bucket.height, self.multiples[0], self.name)
        require_multiple("width", bucket.width, self.multiples[1], self.name)

    def _check_frames(self, frames: int) -> None:
        step = self.frame_step or self.temporal_scale
        if step == 1:
            require_multiple("frame count", frames, 1, self.name)
        elif frames < 1 or (frames - 1) % step:
            low = max(1, (frames - 1) // step * step + 1)
            raise InvalidInput(
                f"frame count {frames} does not suit {self.name}; it must be a multiple of {step} plus 1, such as "
                f"{low}.",
                code="invalid_size",
            )
        if self.most_frames is not None and frames > self.most_frames:
            raise InvalidInput(
                f"frame count {frames} does not suit {self.name}; it makes at most {self.most_frames} frames.",
                code="invalid_size",
            )


def require_multiple(what: str, value: int, multiple: int, name: str) -> None:
    """Raise InvalidInput unless `value` is a positive multiple of `multiple`."""
    if value < 1 or value % multiple:
        low = max(multiple, value // multiple * multiple)
        raise InvalidInput(
            f"{what} {value} does not suit {name}; it must be a multiple of {multiple}, such as {low}.",
            code="invalid_size",
        )
