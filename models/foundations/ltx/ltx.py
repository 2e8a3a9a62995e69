"""LTX-Video: `LTXPipeline` with `LTXVideoTransformer3DModel`: full 3D attention over packed tokens, flow matching.

The VAE makes one latent of 32x32 pixels and 8 frames (the first frame has its own), so the denoiser's tokens are
single latents. The text has a mask, which it takes along as a channel of its own (`flow.with_mask`). No layer is
only temporal: both paths adapt the same modules, as in Wan.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift
from torch import Tensor, nn

from models.family import FamilySpec
from models.foundations.base import Bucket
from models.foundations.flow import FlowFoundation, with_mask, without_mask
from models.foundations.shared.layout import TokenLayout
from models.foundations.shared.noise import FlowNoise
from models.foundations.shared.pixels import to_uint8
from models.foundations.shared.targets import linears, same_on_both_paths

TARGET = re.compile(r"transformer_blocks\.\d+\.(attn1\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))")
# Adapters of other tools also change the attention to the text.
MORE = re.compile(r"transformer_blocks\.\d+\.attn2\.(to_q|to_k|to_v|to_out\.0)")


class LTXFoundation(FlowFoundation):
    """An `LTXPipeline`. Frame rate is the foundation's default: its tokens know their time in seconds."""

    denoiser_name = "transformer"
    adapter_key_prefix = "transformer."  # read by `LTXPipeline.load_lora_weights`

    def __init__(self, pipeline: Any, spec: FamilySpec, **about: Any) -> None:
        super().__init__(pipeline, spec, **about)
        self.targets = same_on_both_paths(self.denoiser, TARGET)
        self.more_targets = linears(self.denoiser, MORE)
        config = pipeline.scheduler.config
        shift = float(config.shift)
        if config.use_dynamic_shifting:  # by the number of tokens; training takes that of the default size
            shift = float(np.exp(self._mu(self.defaults.bucket)))
        self.noise = FlowNoise(int(config.num_train_timesteps), shift)

    @property
    def text_width(self) -> int:
        return int(self.denoiser.config.caption_channels)

    @property
    def text_shape(self) -> tuple[int, int]:
        return (self.text_limit.tokens, self.text_width + 1)  # with the mask

    def latent_shape(self, bucket: Bucket) -> tuple[int, int, int, int]:
        return self.causal_latent_shape(self.denoiser.config.in_channels, bucket)

    def token_layout(self, layer: str, bucket: Bucket) -> TokenLayout:
        return self.latent_layout(bucket)

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Tensor:
        text, mask, _, _ = self.pipeline.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            max_sequence_length=self.text_limit.tokens,
            device=self.pipeline.text_encoder.device,  # the denoiser may be on another device
        )
        return with_mask(text, mask)

    @torch.no_grad()
    def encode_video(self, video_BCFHW: Tensor) -> Tensor:
        vae = self.pipeline.vae
        latents = vae.encode(video_BCFHW.to(vae.device, vae.dtype)).latent_dist.mode()
        normal = self.pipeline._normalize_latents(
            latents, vae.latents_mean, vae.latents_std, vae.config.scaling_factor
        )
        return normal.float()

    @torch.no_grad()
    def decode(self, latents_BCfhw: Tensor) -> Tensor:
        vae = self.pipeline.vae
        latents = self.pipeline._denormalize_latents(
            latents_BCfhw.to(vae.device), vae.latents_mean, vae.latents_std, vae.config.scaling_factor
        ).to(vae.dtype)
        # A decoder that also denoises is asked to denoise nothing, the stock pipeline's default.
        timestep = latents.new_zeros(len(latents)) if vae.config.timestep_conditioning else None
        return to_uint8(vae.decode(latents, timestep, return_dict=False)[0])

    def _predict(self, latents_BCfhw: Tensor, t_B: Tensor, text_BLD: Tensor) -> Tensor:
        _, _, frames, height, width = latents_BCfhw.shape
        text, mask = without_mask(text_BLD)
        packed = self.denoiser(
            hidden_states=self.pipeline._pack_latents(latents_BCfhw.to(self.dtype)),
            encoder_hidden_states=text.to(self.dtype),
            encoder_attention_mask=mask,
            timestep=t_B,
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=(
                self.sizes.temporal_scale / self.defaults.fps,
                self.sizes.spatial_scale,
                self.sizes.spatial_scale,
            ),
        ).sample
        return self.pipeline._unpack_latents(packed, frames, height, width)

    def set_timesteps(self, scheduler: Any, steps: int, bucket: Bucket) -> None:
        sigmas = np.linspace(1.0, 1 / steps, steps)
        scheduler.set_timesteps(sigmas=sigmas, mu=self._mu(bucket), device=self.device)

    def _mu(self, bucket: Bucket) -> float:
        """The logarithm of the shift towards noise for a size: linear in its number of tokens."""
        _, frames, height, width = self.latent_shape(bucket)
        config = self.pipeline.scheduler.config
        return float(
            calculate_shift(
                frames * height * width,
                config.base_image_seq_len,
                config.max_image_seq_len,
                config.base_shift,
                config.max_shift,
            )
        )

    def checkpointed_blocks(self) -> Iterable[nn.Module]:
        return list(self.denoiser.transformer_blocks)
