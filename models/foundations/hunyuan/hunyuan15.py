"""HunyuanVideo 1.5: `HunyuanVideo15Pipeline` with `HunyuanVideo15Transformer3DModel`: joint attention of video and text.

Two texts are read: a Qwen's hidden states of the prompt, and ByT5's of what the prompt has in quotation marks (glyphs).
Both have masks. Here they are one tensor [B, G + L, D + 1]: the glyphs' G rows, padded to the width D of the others, then
the prompt's L; the last channel is the mask. No vector that is masked reaches the video, so the denoiser is given the
longest text of a batch and no more, and none of the 729 tokens of an image that the stock pipeline sends masked.

The denoiser takes channels for a first frame, which are zero for text to video. No layer is only temporal: both paths adapt
the same modules; those of the text alone are left as they are.

Shapes: B samples, L D text, G glyphs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.family import FamilySpec
from models.foundations.base import Bucket
from models.foundations.flow import FlowFoundation, first_read, with_mask, without_mask
from models.foundations.shared.layout import TokenLayout
from models.foundations.shared.noise import FlowNoise
from models.foundations.shared.pixels import to_uint8
from models.foundations.shared.targets import linears, same_on_both_paths

TARGET = re.compile(r"transformer_blocks\.\d+\.(attn\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))")
# Adapters of other tools also change the layers of the text alone.
MORE = re.compile(
    r"transformer_blocks\.\d+\.(attn\.(add_[qkv]_proj|to_add_out)|ff_context\.net\.(0\.proj|2))"
)
GLYPHS = 256  # tokens of what is in quotation marks, the stock pipeline's limit


class HunyuanVideo15Foundation(FlowFoundation):
    """A `HunyuanVideo15Pipeline`."""

    denoiser_name = "transformer"
    adapter_key_prefix = "transformer."  # read by the transformer's `load_lora_adapter`
    compiles = False  # the denoiser orders each sample's text by its mask

    def __init__(self, pipeline: Any, spec: FamilySpec, **about: Any) -> None:
        super().__init__(pipeline, spec, **about)
        if pipeline.text_encoder_2 is not None:
            pipeline.text_encoder_2.requires_grad_(False).eval()
        self.targets = same_on_both_paths(self.denoiser, TARGET)
        self.more_targets = linears(self.denoiser, MORE)
        config = pipeline.scheduler.config
        self.noise = FlowNoise(int(config.num_train_timesteps), float(config.shift))

    @property
    def text_width(self) -> int:
        return int(self.denoiser.config.text_embed_dim)

    @property
    def text_shape(self) -> tuple[int, int]:
        return (GLYPHS + self.text_limit.tokens, self.text_width + 1)  # with the mask

    def latent_shape(self, bucket: Bucket) -> tuple[int, int, int, int]:
        return self.causal_latent_shape(self.denoiser.config.out_channels, bucket)

    def token_layout(self, layer: str, bucket: Bucket) -> TokenLayout:
        config = self.denoiser.config
        return self.latent_layout(bucket).patches(config.patch_size_t, config.patch_size, config.patch_size)

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Tensor:
        text, mask, glyphs, glyph_mask = self.pipeline.encode_prompt(
            prompts,
            device=self.pipeline.text_encoder.device,  # the denoiser may be on another device
            batch_size=len(prompts),
        )
        glyphs = functional.pad(glyphs, (0, self.text_width - glyphs.shape[2])).to(text)
        return with_mask(torch.cat([glyphs, text], dim=1), torch.cat([glyph_mask, mask], dim=1))

    @torch.no_grad()
    def encode_video(self, video_BCFHW: Tensor) -> Tensor:
        vae = self.pipeline.vae
        alone = video_BCFHW.to(vae.device, vae.dtype).split(1)  # its attention takes no batches
        latents = torch.cat([vae.encode(video).latent_dist.mode() for video in alone])
        return (latents * vae.config.scaling_factor).float()

    @torch.no_grad()
    def decode(self, latents_BCfhw: Tensor) -> Tensor:
        vae = self.pipeline.vae
        latents = latents_BCfhw.to(vae.device, vae.dtype) / vae.config.scaling_factor
        return to_uint8(torch.cat([vae.decode(one, return_dict=False)[0] for one in latents.split(1)]))

    def _predict(self, latents_BCfhw: Tensor, t_B: Tensor, text_BLD: Tensor) -> Tensor:
        config, dtype = self.denoiser.config, self.dtype
        text, read = without_mask(text_BLD)
        glyphs, glyphs_read = first_read(text[:, :GLYPHS, : config.text_embed_2_dim], read[:, :GLYPHS])
        words, words_read = first_read(text[:, GLYPHS:], read[:, GLYPHS:])
        latents = latents_BCfhw.to(dtype)
        missing = config.in_channels - latents.shape[1]  # a first frame and its mask
        return self.denoiser(
            hidden_states=functional.pad(latents, (0, 0, 0, 0, 0, 0, 0, missing)),
            timestep=t_B,
            encoder_hidden_states=words.to(dtype),
            encoder_attention_mask=words_read,
            encoder_hidden_states_2=glyphs.to(dtype),
            encoder_attention_mask_2=glyphs_read,
            image_embeds=latents.new_zeros(len(latents), 0, config.image_embed_dim),
        ).sample

    def set_timesteps(self, scheduler: Any, steps: int, bucket: Bucket) -> None:
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, steps + 1)[:-1], device=self.device)

    def checkpointed_blocks(self) -> Iterable[nn.Module]:
        return list(self.denoiser.transformer_blocks)
