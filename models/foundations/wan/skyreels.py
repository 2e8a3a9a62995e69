"""SkyReels-V2 diffusion forcing: `SkyReelsV2DiffusionForcingPipeline`, a Wan whose latent frames have a timestep each.

Here all frames of a video have the same one, in training and in generation: the stock pipeline's synchronous mode
(`ar_step=0`). The model also knows whether a video has 16 frames per second or more; it is told the foundation's default.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UniPCMultistepScheduler, WanPipeline
from torch import Tensor, nn

from models.foundations.wan.wan import WanFoundation


class InPlaceUniPC(UniPCMultistepScheduler):
    """UniPC as it is in a loop that writes each step's result over its input, as the authors' and the stock pipeline's do.

    UniPC keeps the first step's input for its first correction, and finds the result there.
    """

    last_sample: Tensor | None

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **more: Any) -> Any:
        output = super().step(model_output, timestep, sample, **more)
        if self.last_sample is sample:
            self.last_sample = output.prev_sample
        return output


class SkyReelsFoundation(WanFoundation):
    """A `SkyReelsV2DiffusionForcingPipeline` for text to video."""

    def _denoiser_of(self, pipeline: Any) -> Any:
        return pipeline.transformer

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Tensor:
        # The same as this pipeline's own, which fails without the package ftfy.
        return WanPipeline._get_t5_prompt_embeds(
            self.pipeline,
            prompts,
            max_sequence_length=self.text_limit.tokens,
            device=self.pipeline.text_encoder.device,  # the denoiser may be on another device
        )

    def _ask(self, transformer: nn.Module, latents: Tensor, t_B: Tensor, text: Tensor) -> Tensor:
        more_than_16 = int(self.defaults.fps != 16)
        return transformer(
            hidden_states=latents,
            timestep=t_B.unsqueeze(1).expand(-1, latents.shape[2]),
            encoder_hidden_states=text,
            enable_diffusion_forcing=True,
            fps=[more_than_16],  # one for all: of several, the denoiser takes no batch
        ).sample

    def _make_scheduler(self, kind: str) -> Any:
        made = super()._make_scheduler(kind)
        return InPlaceUniPC.from_config(made.config) if kind == "flow-unipc" else made
