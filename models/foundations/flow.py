"""What the families of rectified flow share: diffusers' flow schedulers, and Euler's method for inversion.

Shapes: B samples, C f h w latents.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from models.foundations.base import Bucket, Foundation
from models.foundations.shared.noise import FlowNoise, LinearStep
from models.foundations.shared.pixels import to_uint8


class FlowFoundation(Foundation):
    """A foundation whose denoiser predicts a velocity. Subclasses set `noise` to a `FlowNoise`.

    Its VAE's latents are scaled by one factor; subclasses with other statistics have their own `encode_video` and `decode`.
    """

    noise: FlowNoise

    def scheduler_kinds(self) -> tuple[str, ...]:
        return ("flow-euler",)

    def _make_scheduler(self, kind: str) -> Any:
        return FlowMatchEulerDiscreteScheduler.from_config(self.pipeline.scheduler.config)

    def linear_steps(self, steps: int) -> list[LinearStep]:
        # A schedule that depends on the size is that of the default size: any schedule solves the same equation.
        euler = self._make_scheduler("flow-euler")
        self.set_timesteps(euler, steps, self.defaults.bucket)
        sigmas = euler.sigmas.cpu()
        changes = sigmas.diff().tolist()
        return [LinearStep(t, 1.0, change) for t, change in zip(euler.timesteps, changes, strict=True)]

    def clean_estimate(self, scheduler: Any, output: Any, before: Tensor, answer: Tensor) -> Tensor | None:
        if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
            return before + (scheduler.sigmas[-1] - scheduler.sigmas[scheduler.step_index - 1]) * answer
        return super().clean_estimate(scheduler, output, before, answer)

    @torch.no_grad()
    def encode_video(self, video_BCFHW: Tensor) -> Tensor:
        vae = self.pipeline.vae
        latents = vae.encode(video_BCFHW.to(vae.device, vae.dtype)).latent_dist.mode()
        return (latents * vae.config.scaling_factor).float()

    def encode_frames(self, video_BCFHW: Tensor) -> Tensor:
        return torch.stack([self.encode_video(frame) for frame in video_BCFHW.split(1, dim=2)], dim=1)

    @torch.no_grad()
    def decode(self, latents_BCfhw: Tensor) -> Tensor:
        vae = self.pipeline.vae
        latents = latents_BCfhw.to(vae.device, vae.dtype) / vae.config.scaling_factor
        return to_uint8(vae.decode(latents, return_dict=False)[0])

    def causal_latent_shape(self, channels: int, bucket: Bucket) -> tuple[int, int, int, int]:
        """(C, f, h, w) of a video's latents for a VAE that keeps the first frame and compresses the others."""
        return (
            channels,
            (bucket.frames - 1) // self.sizes.temporal_scale + 1,
            bucket.height // self.sizes.spatial_scale,
            bucket.width // self.sizes.spatial_scale,
        )


def with_mask(text_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """A text and which of its vectors are read, as one tensor [B, L, D + 1]: the mask is the last channel, 1 or 0."""
    return torch.cat([text_BLD, mask_BL.to(text_BLD).unsqueeze(-1)], dim=-1)


def without_mask(text_BLE: Tensor) -> tuple[Tensor, Tensor]:
    """The text [B, L, D] and the mask [B, L] (booleans) of `with_mask`."""
    return text_BLE[..., :-1], text_BLE[..., -1] > 0.5


def first_read(text_BLD: Tensor, read_BL: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors that are read, then others, up to the most that a sample reads (or one); and which are read.

    For a denoiser that reads a text by its mask, wherever its vectors stand.
    """
    most = max(1, int(read_BL.sum(1).max()))
    order_BL = (~read_BL).long().argsort(dim=1, stable=True)[:, :most]
    text = text_BLD.gather(1, order_BL.unsqueeze(-1).expand(-1, -1, text_BLD.shape[2]))
    return text, read_BL.gather(1, order_BL)
