"""ModelScope, ZeroScope and the embedded sprite model: `TextToVideoSDPipeline` with `UNet3DConditionModel`.

Spatial and temporal transformer blocks are separate modules, so the two paths' layers are disjoint. A single
frame skips every temporal layer (transformers and convolutions), as in the published method's spatial path.
The frame count is an argument of each block's forward, so a recomputed forward skips the same layers.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import wraps
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import (
    TransformerTemporalModel,
    TransformerTemporalModelOutput,
)
from torch import Tensor, nn
from torch.nn import functional

from models.family import FamilySpec
from models.foundations.base import Bucket, Foundation
from models.foundations.layout import TokenLayout, steps
from models.foundations.noise import DDPMNoise, LinearStep, ddim_steps
from models.foundations.pixels import to_uint8
from models.lora.routing import LoraPath

SPATIAL_PARTS = ("attn1", "ff")  # not cross-attention, so that the prompt keeps its influence
TEMPORAL_PARTS = ("attn1", "attn2", "ff")


def lora_targets(unet: nn.Module) -> dict[LoraPath, tuple[str, ...]]:
    """The target Linears in the transformer blocks: attn1 and ff of spatial ones, all of temporal ones.

    A ZeroScope-shaped UNet has 96 spatial and 170 temporal target modules (tested).
    """
    parts: tuple[str, ...]
    path: LoraPath
    found: dict[LoraPath, list[str]] = {"spatial": [], "temporal": []}
    for name, module in unet.named_modules():
        if isinstance(module, Transformer2DModel):
            path, parts = "spatial", SPATIAL_PARTS
        elif isinstance(module, TransformerTemporalModel):
            path, parts = "temporal", TEMPORAL_PARTS
        else:
            continue
        for index, block in enumerate(module.transformer_blocks):
            for inner, linear in block.named_modules():
                if isinstance(linear, nn.Linear) and inner.split(".")[0] in parts:
                    found[path].append(f"{name}.transformer_blocks.{index}.{inner}")
    return {"spatial": tuple(found["spatial"]), "temporal": tuple(found["temporal"])}


def skip_temporal_for_single_frames(unet: nn.Module) -> None:
    """Make every temporal layer the identity when `num_frames == 1`; other frame counts are unaffected."""
    for module in unet.modules():
        if isinstance(module, TemporalConvLayer):
            _identity_on_one_frame(module, lambda x, return_dict: x)
        elif isinstance(module, TransformerTemporalModel):
            _identity_on_one_frame(
                module,
                lambda x, return_dict: TransformerTemporalModelOutput(sample=x) if return_dict else (x,),
            )


def _identity_on_one_frame(module: nn.Module, identity: Any) -> None:
    forward = module.forward

    @wraps(forward)
    def skipping(hidden_states: Tensor, *args: Any, num_frames: int = 1, **kwargs: Any) -> Any:
        if num_frames == 1:
            return identity(hidden_states, kwargs.get("return_dict", True))
        return forward(hidden_states, *args, num_frames=num_frames, **kwargs)

    module.forward = skipping  # type: ignore[method-assign]


def convolve_over_frames_in_two_dimensions(unet: nn.Module) -> None:
    """On a CPU, compute the temporal layers' (3, 1, 1) convolutions over [B, C, F, H, W] in two dimensions.

    They become (3, 1) convolutions over [B, C, F, H * W], with the same sums. For the 3D form, PyTorch
    uses a kernel (`slow_conv3d`) that takes three times as long on one thread; a whole step of the
    embedded model takes 1.09 times as long (benchmarks/temporal_convolution.py).
    """
    for module in unet.modules():
        if isinstance(module, nn.Conv3d) and _over_frames_alone(module):
            _in_two_dimensions(module)


def _over_frames_alone(conv: nn.Conv3d) -> bool:
    frame = (conv.kernel_size[1:], conv.padding[1:], conv.stride, conv.dilation)
    return frame == ((1, 1), (0, 0), (1, 1, 1), (1, 1, 1)) and conv.padding_mode == "zeros"


def _in_two_dimensions(conv: nn.Conv3d) -> None:
    forward = conv.forward

    @wraps(forward)
    def convolve(x_BCFHW: Tensor) -> Tensor:
        if x_BCFHW.device.type != "cpu":
            return forward(x_BCFHW)
        size = x_BCFHW.shape[-2:]
        out = functional.conv2d(
            x_BCFHW.flatten(3),
            conv.weight[..., 0],
            conv.bias,
            padding=(int(conv.padding[0]), 0),
            groups=conv.groups,
        )
        return out.unflatten(3, size)

    conv.forward = convolve  # type: ignore[method-assign, assignment]


def answer_dtype_at_once(unet: nn.Module) -> None:
    """Look up the denoiser's `dtype` directly: diffusers' property searches every module in each forward."""
    kind = type(unet)
    own = {"dtype": property(lambda self: self.conv_in.weight.dtype), "__module__": kind.__module__}
    unet.__class__ = type(kind.__name__, (kind,), own)  # a saved pipeline identifies its class by these names


class UNet3DFoundation(Foundation):
    """A `TextToVideoSDPipeline`. Components that were not loaded (by a worker that only trains) are None."""

    denoiser_name = "unet"
    adapter_key_prefix = "base_model.model."  # PEFT's, since diffusers has no LoRA loader for this class

    def __init__(self, pipeline: Any, spec: FamilySpec, **about: Any) -> None:
        super().__init__(pipeline, spec, **about)
        self.targets = lora_targets(self.denoiser)
        skip_temporal_for_single_frames(self.denoiser)
        convolve_over_frames_in_two_dimensions(self.denoiser)
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

    @torch.no_grad()
    def decode(self, latents_BCfhw: Tensor) -> Tensor:
        video_BCFHW = self.pipeline.decode_latents(latents_BCfhw.to(self.device, self.pipeline.vae.dtype))
        return to_uint8(video_BCFHW)

    def _predict(self, latents_BCfhw: Tensor, t_B: Tensor, text_BLD: Tensor) -> Tensor:
        dtype = self.denoiser.dtype
        return self.denoiser(latents_BCfhw.to(dtype), t_B, encoder_hidden_states=text_BLD.to(dtype)).sample

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

    def checkpointed_blocks(self) -> Iterable[nn.Module]:
        kinds = (ResnetBlock2D, TemporalConvLayer, Transformer2DModel, TransformerTemporalModel)
        return [module for module in self.denoiser.modules() if isinstance(module, kinds)]


def level_of(layer: str, levels: int) -> int:
    """How many times smaller, as a power of 2, the latents are at a layer of the UNet."""
    part, number = layer.split(".")[:2]
    if part == "down_blocks":
        return int(number)
    if part == "up_blocks":
        return levels - 1 - int(number)
    return {"transformer_in": 0, "mid_block": levels - 1}[part]


SCHEDULERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}
