"""CogVideoX 2b, 5b and 1.5: `CogVideoXPipeline`, joint attention over text and video, v-prediction, a causal video VAE.

No layer is only temporal, and every block's layers take the prompt's tokens and the video's in one sequence. Both paths
adapt the same modules and differ in their training data, as for Wan (wan.py).

1.5 packs two latent frames into a token. The stock pipeline makes one latent frame more than the video has, in front, and
drops it at the end; so do the latents here: `latent_shape` counts it, `encode_video` fills it with a copy of the first
latent frame (as the authors' trainer does), and `decode` drops it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from diffusers.schedulers.scheduling_dpm_cogvideox import DDIMSchedulerOutput
from torch import Tensor, nn

from models.family import FamilySpec
from models.foundations.base import Bucket, Foundation
from models.foundations.shared.layout import TokenLayout, steps
from models.foundations.shared.noise import DDPMNoise, LinearStep, ddim_steps
from models.foundations.shared.pixels import to_uint8
from models.lora.routing import LoraPath

TARGET = re.compile(r"transformer_blocks\.\d+\.(attn1\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))")


def lora_targets(transformer: nn.Module) -> dict[LoraPath, tuple[str, ...]]:
    """Six Linears per block, the same for both paths."""
    names = tuple(
        name
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and TARGET.fullmatch(name)
    )
    return {"spatial": names, "temporal": names}


class RememberingDPM(CogVideoXDPMScheduler):
    """The stochastic DPM-Solver++ of CogVideoX with the `step` of other schedulers: it remembers its last estimate.

    Takes latents [B, C, f, h, w] and draws noise in the stock pipeline's order, [B, f, C, h, w].
    """

    before: tuple[Tensor, Tensor] | None = None  # the last step's timestep and estimate of the clean latents

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        super().set_timesteps(num_inference_steps, device)
        self.before = None

    def step(  # type: ignore[override]
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        generator: torch.Generator | None = None,
    ) -> DDIMSchedulerOutput:
        back, estimate = self.before or (None, None)
        next_BfChw, x0_BfChw = super().step(
            model_output.transpose(1, 2),
            estimate,
            timestep,
            back,
            sample.transpose(1, 2),
            generator=generator,
            return_dict=False,
        )
        self.before = timestep, x0_BfChw
        return DDIMSchedulerOutput(
            prev_sample=next_BfChw.transpose(1, 2), pred_original_sample=x0_BfChw.transpose(1, 2)
        )


SCHEDULERS: dict[str, Any] = {"ddim": CogVideoXDDIMScheduler, "dpm++sde": RememberingDPM}


class CogVideoXFoundation(Foundation):
    """A `CogVideoXPipeline`. Components that were not loaded (by a worker that only trains) are None."""

    denoiser_name = "transformer"
    adapter_key_prefix = "transformer."  # read by `CogVideoXPipeline.load_lora_weights`

    def __init__(self, pipeline: Any, spec: FamilySpec, **about: Any) -> None:
        super().__init__(pipeline, spec, **about)
        self.targets = lora_targets(self.denoiser)
        # Not diffusers' DDPMScheduler: it does not know `snr_shift_scale` and would noise less than the model expects.
        self.noise = DDPMNoise(CogVideoXDDIMScheduler.from_config(pipeline.scheduler.config))
        # Rotary embeddings are looked up by size, in Python.
        self.compiles = not self.denoiser.config.use_rotary_positional_embeddings
        self._rotary: dict[tuple[torch.device, torch.Size], tuple[Tensor, Tensor]] = {}

    @property
    def text_width(self) -> int:
        return int(self.denoiser.config.text_embed_dim)

    @property
    def patch_frames(self) -> int:
        """Latent frames in a token: 1, or 2 in CogVideoX 1.5."""
        return int(self.denoiser.config.patch_size_t or 1)

    @property
    def extra_frames(self) -> int:
        """Latent frames in front of a video's own."""
        return self.patch_frames - 1

    def latent_shape(self, bucket: Bucket) -> tuple[int, int, int, int]:
        return (
            self.denoiser.config.in_channels,
            (bucket.frames - 1) // self.sizes.temporal_scale + 1 + self.extra_frames,
            bucket.height // self.sizes.spatial_scale,
            bucket.width // self.sizes.spatial_scale,
        )

    def draw_noise(self, bucket: Bucket, generator: torch.Generator) -> Tensor:
        channels, frames, height, width = self.latent_shape(bucket)
        return torch.randn(frames, channels, height, width, generator=generator).transpose(0, 1)

    def latent_layout(self, bucket: Bucket) -> TokenLayout:
        _, frames, height, width = self.latent_shape(bucket)
        ends = [1 + frame * self.sizes.temporal_scale for frame in range(frames - self.extra_frames)]
        own = [range(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        return TokenLayout(
            "of the video",
            (*[own[0]] * self.extra_frames, *own),
            steps(height, 1, self.sizes.spatial_scale),
            steps(width, 1, self.sizes.spatial_scale),
        )

    def token_layout(self, layer: str, bucket: Bucket) -> TokenLayout:
        _, frames, height, width = self.latent_shape(bucket)
        patch, of = self.denoiser.config.patch_size, self.latent_layout(bucket).frames
        return TokenLayout(
            "of the video",
            tuple(
                range(of[first].start, of[first + self.patch_frames - 1].stop)
                for first in range(0, frames, self.patch_frames)
            ),
            steps(height, patch, self.sizes.spatial_scale),
            steps(width, patch, self.sizes.spatial_scale),
            text=self.text_limit.tokens,
        )

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Tensor:
        text, _ = self.pipeline.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            max_sequence_length=self.text_limit.tokens,
            device=self.pipeline.text_encoder.device,  # the denoiser may be on another device
        )
        return text

    @torch.no_grad()
    def encode_video(self, video_BCFHW: Tensor) -> Tensor:
        vae = self.pipeline.vae
        latents = (
            vae.encode(video_BCFHW.to(vae.device, vae.dtype)).latent_dist.mode() * vae.config.scaling_factor
        )
        extra = latents[:, :, :1].expand(-1, -1, self.extra_frames, -1, -1)
        return torch.cat([extra, latents], dim=2).float()

    @torch.no_grad()
    def encode_frames(self, video_BCFHW: Tensor) -> Tensor:
        frames = [self.encode_video(frame) for frame in video_BCFHW.split(1, dim=2)]
        return torch.stack(frames, dim=1)

    @torch.no_grad()
    def decode(self, latents_BCfhw: Tensor) -> Tensor:
        vae = self.pipeline.vae
        latents = latents_BCfhw[:, :, self.extra_frames :].to(vae.device, vae.dtype)
        return to_uint8(vae.decode(latents / vae.config.scaling_factor).sample)

    def _predict(self, latents_BCfhw: Tensor, t_B: Tensor, text_BLD: Tensor) -> Tensor:
        dtype = self.dtype
        return self.denoiser(
            hidden_states=latents_BCfhw.transpose(1, 2).to(dtype),
            encoder_hidden_states=text_BLD.to(dtype),
            timestep=t_B,
            image_rotary_emb=self._rotary_embeddings(latents_BCfhw),
        ).sample.transpose(1, 2)

    def _rotary_embeddings(self, latents_BCfhw: Tensor) -> tuple[Tensor, Tensor] | None:
        """The pipeline's rotary embeddings (cosines and sines) of latents of this size; None for 2b, which has none."""
        if not self.denoiser.config.use_rotary_positional_embeddings:
            return None
        key = (latents_BCfhw.device, latents_BCfhw.shape[2:])
        if key not in self._rotary:
            (frames, *sides), scale = key[1], self.pipeline.vae_scale_factor_spatial
            height, width = (scale * side for side in sides)
            self._rotary[key] = self.pipeline._prepare_rotary_positional_embeddings(
                height, width, frames, key[0]
            )
        return self._rotary[key]

    def scheduler_kinds(self) -> tuple[str, ...]:
        stochastic = isinstance(self.pipeline.scheduler, CogVideoXDPMScheduler)
        return ("dpm++sde", "ddim") if stochastic else ("ddim", "dpm++sde")

    def _make_scheduler(self, kind: str) -> Any:
        return SCHEDULERS[kind].from_config(self.pipeline.scheduler.config)

    def linear_steps(self, steps: int) -> list[LinearStep]:
        return ddim_steps(self._make_scheduler("ddim"), steps)

    def checkpointed_blocks(self) -> Iterable[nn.Module]:
        return list(self.denoiser.transformer_blocks)
