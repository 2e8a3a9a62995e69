"""Mochi 1: `MochiPipeline` with `MochiTransformer3DModel`: joint attention of video and text, a VAE that compresses time by 6.

Its time runs from noise to data: timestep 0 is noise, and the denoiser predicts the velocity towards the data
(`InvertedFlowNoise`). The text has a mask, which it takes along as a channel of its own (`flow.with_mask`); the denoiser is
given the longest text of a batch and no more. No layer is only temporal: both paths adapt the same modules; those of the text
alone are left as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule
from torch import Tensor, nn

from infra.errors import InvalidInput
from models.family import FamilySpec
from models.foundations.base import Bucket
from models.foundations.flow import FlowFoundation, first_read, with_mask, without_mask
from models.foundations.shared.layout import TokenLayout
from models.foundations.shared.noise import InvertedFlowNoise
from models.foundations.shared.pixels import to_uint8
from models.foundations.shared.targets import linears, same_on_both_paths

TARGET = re.compile(r"transformer_blocks\.\d+\.(attn1\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))")
# Adapters of other tools also change the layers of the text alone.
MORE = re.compile(
    r"transformer_blocks\.\d+\.(attn1\.(add_[qkv]_proj|to_add_out)|ff_context\.net\.(0\.proj|2))"
)
LINEAR_END = 0.025  # how far the linear part of the schedule goes, as in the stock pipeline


class MochiFoundation(FlowFoundation):
    """A `MochiPipeline`."""

    denoiser_name = "transformer"
    adapter_key_prefix = "transformer."  # read by `MochiPipeline.load_lora_weights`
    compiles = False  # attention takes each sample's own number of tokens

    def __init__(self, pipeline: Any, spec: FamilySpec, **about: Any) -> None:
        super().__init__(pipeline, spec, **about)
        self.targets = same_on_both_paths(self.denoiser, TARGET)
        self.more_targets = linears(self.denoiser, MORE)
        config = pipeline.scheduler.config
        self.noise = InvertedFlowNoise(int(config.num_train_timesteps), float(config.shift))

    @property
    def text_width(self) -> int:
        return int(self.denoiser.config.text_embed_dim)

    @property
    def text_shape(self) -> tuple[int, int]:
        return (self.text_limit.tokens, self.text_width + 1)  # with the mask

    def latent_shape(self, bucket: Bucket) -> tuple[int, int, int, int]:
        return self.causal_latent_shape(self.denoiser.config.in_channels, bucket)

    def token_layout(self, layer: str, bucket: Bucket) -> TokenLayout:
        patch = self.denoiser.config.patch_size
        return self.latent_layout(bucket).patches(1, patch, patch)

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Tensor:
        # One at a time: if the last is empty, the stock pipeline may take all of them as empty.
        found = [
            self.pipeline.encode_prompt(
                [prompt],
                do_classifier_free_guidance=False,
                max_sequence_length=self.text_limit.tokens,
                device=self.pipeline.text_encoder.device,  # the denoiser may be on another device
            )
            for prompt in prompts
        ]
        return torch.cat([with_mask(text, mask) for text, mask, _, _ in found])

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The latents' mean and the factor that makes them of unit variance, by channel, [1, C, 1, 1, 1]."""
        config = self.pipeline.vae.config
        mean, std = (
            torch.tensor(one).view(1, -1, 1, 1, 1).to(like)
            for one in (config.latents_mean, config.latents_std)
        )
        return mean, config.scaling_factor / std

    @torch.no_grad()
    def encode_video(self, video_BCFHW: Tensor) -> Tensor:
        vae = self.pipeline.vae
        latents = vae.encode(video_BCFHW.to(vae.device, vae.dtype)).latent_dist.mode()
        mean, factor = self._statistics(latents)
        return ((latents - mean) * factor).float()

    @torch.no_grad()
    def decode(self, latents_BCfhw: Tensor) -> Tensor:
        vae = self.pipeline.vae
        latents = latents_BCfhw.to(vae.device, vae.dtype)
        mean, factor = self._statistics(latents)
        return to_uint8(vae.decode(latents / factor + mean, return_dict=False)[0])

    def _predict(self, latents_BCfhw: Tensor, t_B: Tensor, text_BLD: Tensor) -> Tensor:
        text, read = first_read(*without_mask(text_BLD))
        return self.denoiser(
            hidden_states=latents_BCfhw.to(self.dtype),
            encoder_hidden_states=text.to(self.dtype),
            timestep=t_B,
            encoder_attention_mask=read,
        ).sample

    def set_timesteps(self, scheduler: Any, steps: int, bucket: Bucket) -> None:
        if steps < 2:
            raise InvalidInput(
                f"{self.name} was asked for {steps} step; its schedule needs at least 2.",
                code="invalid_steps",
            )
        scheduler.set_timesteps(sigmas=linear_quadratic_schedule(steps, LINEAR_END), device=self.device)

    def checkpointed_blocks(self) -> Iterable[nn.Module]:
        return list(self.denoiser.transformer_blocks)
