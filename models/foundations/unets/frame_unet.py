"""What UNets over frames share (unet3d.py, animatediff.py): a VAE for pictures, DDPM noise, discrete schedulers.

Spatial and temporal transformer blocks are separate modules, so the two paths' layers are disjoint.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from models.family import FamilySpec
from models.foundations.base import Bucket, Foundation
from models.foundations.shared.layout import TokenLayout, steps
from models.foundations.shared.noise import DDPMNoise, LinearStep, ddim_steps
from models.lora.routing import LoraPath

SPATIAL_PARTS = ("attn1", "ff")  # not cross-attention, so that the prompt keeps its influence
TEMPORAL_PARTS = ("attn1", "attn2", "ff")
SCHEDULERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}


def block_targets(unet: nn.Module, temporal: type[nn.Module]) -> dict[LoraPath, tuple[str, ...]]:
    """The target Linears in the transformer blocks: attn1 and ff of spatial ones, all of temporal ones.

    Args:
        temporal: the class of the UNet's temporal transformers.
    """
    parts: tuple[str, ...]
    path: LoraPath
    found: dict[LoraPath, list[str]] = {"spatial": [], "temporal": []}
    for name, module in unet.named_modules():
        if isinstance(module, Transformer2DModel):
            path, parts = "spatial", SPATIAL_PARTS
        elif isinstance(module, temporal):
            path, parts = "temporal", TEMPORAL_PARTS
        else:
            continue
        blocks: Any = module.transformer_blocks
        for index, block in enumerate(blocks):
            for inner, linear in block.named_modules():
                if isinstance(linear, nn.Linear) and inner.split(".")[0] in parts:
                    found[path].append(f"{name}.transformer_blocks.{index}.{inner}")
    return {"spatial": tuple(found["spatial"]), "temporal": tuple(found["temporal"])}


def answer_dtype_at_once(unet: nn.Module) -> None:
    """Look up the denoiser's `dtype` directly: diffusers' property searches every module in each forward."""
    kind = type(unet)
    own = {"dtype": property(lambda self: self.conv_in.weight.dtype), "__module__": kind.__module__}
    unet.__class__ = type(kind.__name__, (kind,), own)  # a saved pipeline identifies its class by these names


def level_of(layer: str, levels: int) -> int:
    """How many times smaller, as a power of 2, the latents are at a layer of the UNet."""
    part, number = layer.split(".")[:2]
    if part == "down_blocks":
        return int(number)
    if part == "up_blocks":
        return levels - 1 - int(number)
    return {"transformer_in": 0, "mid_block": levels - 1}[part]


class FrameUNetFoundation(Foundation):
    """A pipeline with a UNet over frames. Components that were not loaded (by a worker that only trains) are None."""

    denoiser_name = "unet"

    def __init__(self, pipeline: Any, spec: FamilySpec, **about: Any) -> None:
        super().__init__(pipeline, spec, **about)
        answer_dtype_at_once(self.denoiser)
        self.noise = DDPMNoise(DDPMScheduler.from_config(pipeline.scheduler.config))
        self.vae_scale = self.sizes.spatial_scale

    @property
    def text_width(self) -> int:
        return int(self.denoiser.config.cross_attention_dim)

    def latent_shape(self, bucket: Bucket) -> tuple[int, int, int, int]:
        return (
            self.denoiser.config.in_channels,
            bucket.frames,
            bucket.height // self.vae_scale,
            bucket.width // self.vae_scale,
        )

    def token_layout(self, layer: str, bucket: Bucket) -> TokenLayout:
        _, _, height, width = self.latent_shape(bucket)
        cell = 2 ** level_of(layer, len(self.denoiser.down_blocks))
        return TokenLayout(
            "of a frame" if layer in self.targets["spatial"] else "of a pixel",
            self.latent_layout(bucket).frames,
            steps(height, cell, self.vae_scale),
            steps(width, cell, self.vae_scale),
        )

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Tensor:
        device = self.pipeline.text_encoder.device  # the denoiser may be on another device
        text, _ = self.pipeline.encode_prompt(prompts, device, 1, False)
        return text

    @torch.no_grad()
    def encode_video(self, video_BCFHW: Tensor) -> Tensor:
        vae = self.pipeline.vae
        batch, frames = video_BCFHW.shape[0], video_BCFHW.shape[2]
        images = video_BCFHW.transpose(1, 2).flatten(0, 1).to(vae.device, vae.dtype)
        latents = vae.encode(images).latent_dist.mode() * vae.config.scaling_factor
        return latents.unflatten(0, (batch, frames)).transpose(1, 2).float()

    def encode_frames(self, video_BCFHW: Tensor) -> Tensor:
        return self.encode_both(video_BCFHW)[1]

    def encode_both(self, video_BCFHW: Tensor) -> tuple[Tensor, Tensor]:
        # The VAE has no time dimension: a frame has the same latents alone and in its clip.
        latents_BCFhw = self.encode_video(video_BCFHW)
        return latents_BCFhw, latents_BCFhw.transpose(1, 2).unsqueeze(3)

    def scheduler_kinds(self) -> tuple[str, ...]:
        own = type(self.pipeline.scheduler)
        first = next((kind for kind, cls in SCHEDULERS.items() if cls is own), "ddim")
        return (first, *(kind for kind in SCHEDULERS if kind != first))

    def _make_scheduler(self, kind: str) -> Any:
        return SCHEDULERS[kind].from_config(self.pipeline.scheduler.config)

    def linear_steps(self, steps: int) -> list[LinearStep]:
        ddim = DDIMScheduler.from_config(
            self.pipeline.scheduler.config, clip_sample=False, thresholding=False
        )
        return ddim_steps(ddim, steps)
