"""Wan 2.1 and 2.2: `WanPipeline` with `WanTransformer3DModel`: full 3D attention, flow matching, a causal video VAE.

No layer is only temporal. Both paths adapt the same modules (self-attention and feed-forward, not the text
cross-attention) and differ in their training data. The VAE compresses time 4:1 after the first frame, so a
frame for the spatial path is encoded as a one-frame video, never cut out of a clip's latents.

Wan 2.2 14B has two transformers, one for high and one for low noise (experts.py). Wan 2.2 5B gives each token a
timestep; from text alone all are the same, so it is asked as the others are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor, nn

from models.family import FamilySpec
from models.foundations.base import Bucket
from models.foundations.flow import FlowFoundation
from models.foundations.shared.layout import TokenLayout
from models.foundations.shared.noise import FlowNoise
from models.foundations.shared.pixels import to_uint8
from models.foundations.shared.targets import linears, same_on_both_paths
from models.foundations.wan.experts import NAMES, Experts
from models.lora.routing import LoraPath

TARGET = re.compile(
    r"(?:high_noise\.|low_noise\.)?blocks\.\d+\.(attn1\.(to_q|to_k|to_v|to_out\.0)|ffn\.net\.(0\.proj|2))"
)
# Adapters of other tools also change the attention to the text (and, in 2.1 image-to-video, to the image).
MORE = re.compile(
    r"(?:high_noise\.|low_noise\.)?blocks\.\d+\.attn2\.(to_q|to_k|to_v|to_out\.0|add_k_proj|add_v_proj)"
)


def lora_targets(transformer: nn.Module) -> dict[LoraPath, tuple[str, ...]]:
    """Six Linears per block, the same for both paths."""
    return same_on_both_paths(transformer, TARGET)


class WanFoundation(FlowFoundation):
    """A `WanPipeline` with one transformer, or with two experts."""

    denoiser_name = "transformer"
    adapter_key_prefix = "transformer."  # read by `WanPipeline.load_lora_weights`

    def __init__(self, pipeline: Any, spec: FamilySpec, **about: Any) -> None:
        super().__init__(pipeline, spec, **about)
        self.targets = lora_targets(self.denoiser)
        self.more_targets = linears(self.denoiser, MORE)
        config = pipeline.scheduler.config
        self.flow_shift = float(config.get("flow_shift") or config.get("shift") or 1.0)
        self.noise = FlowNoise(int(config.num_train_timesteps), self.flow_shift)
        if isinstance(self.denoiser, Experts):
            self.experts = NAMES
            self.compiles = False  # which expert answers depends on the timesteps of a batch
            self.boundary = self.noise.fraction(self.denoiser.boundary)

    def _denoiser_of(self, pipeline: Any) -> Any:
        ratio = pipeline.config.boundary_ratio
        if pipeline.transformer_2 is None:
            return pipeline.transformer
        return Experts(
            pipeline.transformer,
            pipeline.transformer_2,
            ratio * pipeline.scheduler.config.num_train_timesteps,
        )

    @property
    def denoisers(self) -> dict[str, tuple[str, Any]]:
        if not isinstance(self.denoiser, Experts):
            return super().denoisers
        high, low = (f"{name}." for name in NAMES)
        return {
            high: ("transformer", self.denoiser.high_noise),
            low: ("transformer_2", self.denoiser.low_noise),
        }

    @property
    def text_width(self) -> int:
        return int(self.denoiser.config.text_dim)

    def latent_shape(self, bucket: Bucket) -> tuple[int, int, int, int]:
        return self.causal_latent_shape(self.denoiser.config.out_channels, bucket)

    def token_layout(self, layer: str, bucket: Bucket) -> TokenLayout:
        return self.latent_layout(bucket).patches(*self.denoiser.config.patch_size)

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Tensor:
        device = self.pipeline.text_encoder.device  # the denoiser may be on another device
        # Padding has no mask: a length other than `WanPipeline`'s would change the frames.
        text, _ = self.pipeline.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            max_sequence_length=self.text_limit.tokens,
            device=device,
        )
        return text

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The latents' mean and standard deviation by channel, [1, C, 1, 1, 1]."""
        config = self.pipeline.vae.config
        shape = (1, config.z_dim, 1, 1, 1)
        mean = torch.tensor(config.latents_mean).view(shape).to(like)
        return mean, torch.tensor(config.latents_std).view(shape).to(like)

    @torch.no_grad()
    def encode_video(self, video_BCFHW: Tensor) -> Tensor:
        vae = self.pipeline.vae
        latents = vae.encode(video_BCFHW.to(vae.device, vae.dtype)).latent_dist.mode()
        mean, std = self._statistics(latents)
        return ((latents - mean) / std).float()

    @torch.no_grad()
    def decode(self, latents_BCfhw: Tensor) -> Tensor:
        vae = self.pipeline.vae
        latents = latents_BCfhw.to(vae.device, vae.dtype)
        mean, std = self._statistics(latents)
        return to_uint8(vae.decode(latents * std + mean, return_dict=False)[0])

    def _predict(self, latents_BCfhw: Tensor, t_B: Tensor, text_BLD: Tensor) -> Tensor:
        dtype = self.dtype
        latents, text = latents_BCfhw.to(dtype), text_BLD.to(dtype)
        if isinstance(self.denoiser, Experts):
            return self.denoiser.answer(
                t_B,
                self.bank,
                lambda expert, rows: self._ask(expert, latents[rows], t_B[rows], text[rows]),
            )
        return self._ask(self.denoiser, latents, t_B, text)

    def _ask(self, transformer: nn.Module, latents: Tensor, t_B: Tensor, text: Tensor) -> Tensor:
        return transformer(hidden_states=latents, timestep=t_B, encoder_hidden_states=text).sample

    def scheduler_kinds(self) -> tuple[str, ...]:
        own = (
            "flow-euler"
            if isinstance(self.pipeline.scheduler, FlowMatchEulerDiscreteScheduler)
            else "flow-unipc"
        )
        return (own, "flow-unipc" if own == "flow-euler" else "flow-euler")

    def _make_scheduler(self, kind: str) -> Any:
        config = self.pipeline.scheduler.config
        if kind == self.scheduler_kinds()[0]:
            return type(self.pipeline.scheduler).from_config(config)
        if kind == "flow-euler":
            return FlowMatchEulerDiscreteScheduler(
                num_train_timesteps=self.noise.num_train_timesteps, shift=self.flow_shift
            )
        return UniPCMultistepScheduler(
            num_train_timesteps=self.noise.num_train_timesteps,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=self.flow_shift,
        )

    def checkpointed_blocks(self) -> Iterable[nn.Module]:
        return [block for _, one in self.denoisers.values() for block in one.blocks]
