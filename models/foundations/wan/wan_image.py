"""Wan image-to-video, 2.1 and 2.2 14B: `WanImageToVideoPipeline`. A video begins with a given image.

The denoiser takes, beside the noised latents, a mask that marks the first frame, and the latents of a video of that
frame and grey ones: 20 more channels of its input. Wan 2.1 also reads the image through CLIP; these vectors stand
before the text. A clip to learn from is its own first frame's video, so its latents come with these channels
(`encode_both`) and only the video's are noised.

Shapes: B samples, C = 16 latent channels of the video.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from infra.errors import InvalidInput
from models.family import FamilySpec
from models.foundations.base import Bucket
from models.foundations.wan.wan import WanFoundation
from models.generation import InputImage


class WanImageFoundation(WanFoundation):
    """A `WanImageToVideoPipeline` with one transformer and CLIP (2.1) or with two experts (2.2)."""

    takes_image = True

    def __init__(self, pipeline: Any, spec: FamilySpec, **about: Any) -> None:
        super().__init__(pipeline, spec, **about)
        self.compiles = False  # graphs are made for latents without an image's channels
        if pipeline.image_encoder is not None:
            pipeline.image_encoder.requires_grad_(False).eval()

    @property
    def _reads_image(self) -> bool:
        """Whether the denoiser reads CLIP's vectors of the image (2.1)."""
        return self.denoiser.config.image_dim is not None

    def clip_shape(self, bucket: Bucket) -> tuple[int, int, int, int]:
        _, *size = self.latent_shape(bucket)
        return (int(self.denoiser.config.in_channels), *size)  # type: ignore[return-value]

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Tensor:
        # The same as this pipeline's own, which fails without the package ftfy.
        return WanPipeline._get_t5_prompt_embeds(
            self.pipeline,
            prompts,
            max_sequence_length=self.text_limit.tokens,
            device=self.pipeline.text_encoder.device,
        )

    def condition(self, image: InputImage, text_RLD: Tensor, bucket: Bucket) -> tuple[Tensor, Tensor]:
        pixels_HWC = fitted(image.pixels_HWC, bucket.height, bucket.width)
        first_1CHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None].float().to(self.device) / 127.5 - 1
        channels = self._channels(first_1CHW, bucket.frames).to(self.device)
        if not self._reads_image:
            return channels, text_RLD
        with torch.no_grad():
            image_1NP = self.pipeline.encode_image(Image.fromarray(pixels_HWC), self.device)
        padded = functional.pad(image_1NP, (0, text_RLD.shape[2] - image_1NP.shape[2])).to(text_RLD)
        return channels, torch.cat([padded.expand(len(text_RLD), -1, -1), text_RLD], dim=1)

    def _channels(self, first_BCHW: Tensor, frames: int) -> Tensor:
        """The mask and the latents of a video that begins with these frames and is grey after: [B, 20, f, h, w]."""
        video = functional.pad(first_BCHW.unsqueeze(2), (0, 0, 0, 0, 0, frames - 1))
        latents = self.encode_video(video)
        mask = latents.new_zeros(len(latents), self.sizes.temporal_scale, *latents.shape[2:])
        mask[:, :, 0] = 1
        return torch.cat([mask, latents], dim=1)

    def encode_both(self, video_BCFHW: Tensor) -> tuple[Tensor, Tensor]:
        if self._reads_image:
            raise InvalidInput(
                f"{self.name} reads the image of a clip through CLIP as well, which training does not support; train on Wan "
                "2.2 image-to-video, or on Wan's text-to-video.",
                code="unsupported_foundation",
            )
        latents, frames = super().encode_both(video_BCFHW)
        begun = self._channels(video_BCFHW[:, :, 0], video_BCFHW.shape[2]).to(latents.device)
        alone = [self._channels(frame[:, :, 0], 1) for frame in video_BCFHW.split(1, dim=2)]
        return (
            torch.cat([latents, begun], dim=1),
            torch.cat([frames, torch.stack(alone, dim=1).to(frames.device)], dim=2),
        )

    def noised(self, x0: Tensor, eps: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        channels = int(self.denoiser.config.out_channels)
        x_t, target = super().noised(x0[:, :channels], eps[:, :channels], t_B)
        return torch.cat([x_t, x0[:, channels:]], dim=1), target

    def _ask(self, transformer: nn.Module, latents: Tensor, t_B: Tensor, text: Tensor) -> Tensor:
        config = self.denoiser.config
        # Without an image (to measure memory, for one) its channels are zero: nothing is marked as given.
        missing = config.in_channels - latents.shape[1]
        latents = functional.pad(latents, (0, 0, 0, 0, 0, 0, 0, missing))
        seen = text.shape[1] - self.text_limit.tokens if self._reads_image else 0
        return transformer(
            hidden_states=latents,
            timestep=t_B,
            encoder_hidden_states=text[:, seen:],
            encoder_hidden_states_image=text[:, :seen, : config.image_dim] if seen else None,
        ).sample


def fitted(pixels_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image scaled to cover height x width and cropped in the middle: uint8 [height, width, 3]."""
    rows, columns = pixels_HWC.shape[:2]
    scale = min(rows / height, columns / width)
    top, left = (rows - height * scale) / 2, (columns - width * scale) / 2
    box = (left, top, columns - left, rows - top)
    picture = Image.fromarray(pixels_HWC).resize((width, height), Image.Resampling.LANCZOS, box=box)
    return np.array(picture)
