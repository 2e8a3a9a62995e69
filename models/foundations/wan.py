"""Wan 2.1: `WanPipeline` with `WanTransformer3DModel`: full 3D attention, flow matching, a causal video VAE.

No layer is only temporal. Both paths adapt the same modules (self-attention and feed-forward, not the text
cross-attention) and differ in their training data. The VAE compresses time 4:1 after the first frame, so a
frame for the spatial path is encoded as a one-frame video, never cut out of a clip's latents.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor, nn

from infra.errors import UserError
from models.family import FamilySpec
from models.foundations.base import Bucket, Foundation
from models.foundations.layout import TokenLayout, steps
from models.foundations.noise import FlowNoise, LinearStep
from models.foundations.pixels import to_uint8
from models.lora.routing import LoraPath

TARGET = re.compile(r"blocks\.\d+\.(attn1\.(to_q|to_k|to_v|to_out\.0)|ffn\.net\.(0\.proj|2))")


def lora_targets(transformer: nn.Module) -> dict[LoraPath, tuple[str, ...]]:
    """Six Linears per block, the same for both paths."""
    names = tuple(
        name
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and TARGET.fullmatch(name)
    )
    return {"spatial": names, "temporal": names}


class WanFoundation(Foundation):
    """A `WanPipeline` with one transformer (Wan 2.1). Raises UserError for Wan 2.2's two experts."""

    denoiser_name = "transformer"
    adapter_key_prefix = "transformer."  # read by `WanPipeline.load_lora_weights`

    def __init__(self, pipeline: Any, spec: FamilySpec, *, source: str, **about: Any) -> None:
        if getattr(pipeline, "transformer_2", None) is not None:
            raise UserError(
                f"{source} has two denoising experts (Wan 2.2), which are not supported; use a Wan 2.1 checkpoint.",
                code="unsupported_foundation",
            )
        super().__init__(pipeline, spec, source=source, **about)
        self.targets = lora_targets(self.denoiser)
        config = pipeline.scheduler.config
        self.flow_shift = float(config.get("flow_shift") or config.get("shift") or 1.0)
        self.noise = FlowNoise(int(config.num_train_timesteps), self.flow_shift)
        self.spatial_scale, self.temporal_scale = self.sizes.spatial_scale, self.sizes.temporal_scale

    @property
    def text_width(self) -> int:
        return int(self.denoiser.config.text_dim)

    def latent_shape(self, bucket: Bucket) -> tuple[int, int, int, int]:
        return (
            self.denoiser.config.in_channels,
            (bucket.frames - 1) // self.temporal_scale + 1,
            bucket.height // self.spatial_scale,
            bucket.width // self.spatial_scale,
        )

    def token_layout(self, layer: str, bucket: Bucket) -> TokenLayout:
        _, frames, height, width = self.latent_shape(bucket)
        patch_frames, patch_height, patch_width = self.denoiser.config.patch_size
        of = self.latent_layout(bucket).frames
        return TokenLayout(
            "of the video",
            tuple(
                range(of[first].start, of[first + patch_frames - 1].stop)
                for first in range(0, frames - patch_frames + 1, patch_frames)
            ),
            steps(height, patch_height, self.spatial_scale),
            steps(width, patch_width, self.spatial_scale),
        )

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
    def encode_frames(self, video_BCFHW: Tensor) -> Tensor:
        frames = [self.encode_video(frame) for frame in video_BCFHW.split(1, dim=2)]
        return torch.stack(frames, dim=1)

    @torch.no_grad()
    def decode(self, latents_BCfhw: Tensor) -> Tensor:
        vae = self.pipeline.vae
        latents = latents_BCfhw.to(vae.device, vae.dtype)
        mean, std = self._statistics(latents)
        return to_uint8(vae.decode(latents * std + mean, return_dict=False)[0])

    def _predict(self, latents_BCfhw: Tensor, t_B: Tensor, text_BLD: Tensor) -> Tensor:
        dtype = self.dtype
        return self.denoiser(
            hidden_states=latents_BCfhw.to(dtype), timestep=t_B, encoder_hidden_states=text_BLD.to(dtype)
        ).sample

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

    def linear_steps(self, steps: int) -> list[LinearStep]:
        euler = self._make_scheduler("flow-euler")
        euler.set_timesteps(steps)
        changes = euler.sigmas.diff().tolist()
        return [LinearStep(t, 1.0, change) for t, change in zip(euler.timesteps, changes, strict=True)]

    def clean_estimate(self, scheduler: Any, output: Any, before: Tensor, answer: Tensor) -> Tensor | None:
        if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
            return before - scheduler.sigmas[scheduler.step_index - 1] * answer
        return super().clean_estimate(scheduler, output, before, answer)

    def checkpointed_blocks(self) -> Iterable[nn.Module]:
        return list(self.denoiser.blocks)
