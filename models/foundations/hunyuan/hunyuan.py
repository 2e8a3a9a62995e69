"""HunyuanVideo: `HunyuanVideoPipeline` with `HunyuanVideoTransformer3DModel`: joint attention of video and text.

The model takes its guidance as an input (it was distilled), so a guided video costs one row. Its text is a Llama's
hidden states with a mask, and one CLIP vector. All of it is one tensor here [B, n + L, D + 1]: n rows hold the CLIP
vector and the guidance, the others the hidden states; the last channel is their mask.

No layer is only temporal: both paths adapt the same modules. The first blocks have separate layers for the text, which
adapters leave alone; in the later ones video and text pass the same layers.

Shapes: B samples, L D text, P width of the CLIP vector.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.family import FamilySpec
from models.foundations.base import Bucket
from models.foundations.flow import FlowFoundation, with_mask, without_mask
from models.foundations.shared.layout import TokenLayout
from models.foundations.shared.noise import FlowNoise
from models.foundations.shared.targets import linears, same_on_both_paths

TARGET = re.compile(
    r"transformer_blocks\.\d+\.(attn\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))"
    r"|single_transformer_blocks\.\d+\.(attn\.(to_q|to_k|to_v)|proj_mlp|proj_out)"
)
# Adapters of other tools also change the layers of the text alone.
MORE = re.compile(
    r"transformer_blocks\.\d+\.(attn\.(add_[qkv]_proj|to_add_out)|ff_context\.net\.(0\.proj|2))"
)
TRAINED_AT = 1.0  # guidance of a text until `with_guidance`: none is added to what a clip shows


class HunyuanVideoFoundation(FlowFoundation):
    """A `HunyuanVideoPipeline`."""

    denoiser_name = "transformer"
    adapter_key_prefix = "transformer."  # read by `HunyuanVideoPipeline.load_lora_weights`

    def __init__(self, pipeline: Any, spec: FamilySpec, **about: Any) -> None:
        super().__init__(pipeline, spec, **about)
        self.targets = same_on_both_paths(self.denoiser, TARGET)
        self.more_targets = linears(self.denoiser, MORE)
        config = pipeline.scheduler.config
        self.noise = FlowNoise(int(config.num_train_timesteps), float(config.shift))
        self.embeds_guidance = bool(self.denoiser.config.guidance_embeds)

    @property
    def text_width(self) -> int:
        return int(self.denoiser.config.text_embed_dim)

    @property
    def text_shape(self) -> tuple[int, int]:
        return (self._pooled_rows + self.text_limit.tokens, self.text_width + 1)  # with the mask

    @property
    def _pooled_rows(self) -> int:
        """Rows n of a text that hold the CLIP vector and the guidance."""
        return math.ceil((self.denoiser.config.pooled_projection_dim + 1) / self.text_width)

    def latent_shape(self, bucket: Bucket) -> tuple[int, int, int, int]:
        return self.causal_latent_shape(self.denoiser.config.in_channels, bucket)

    def token_layout(self, layer: str, bucket: Bucket) -> TokenLayout:
        config = self.denoiser.config
        text = self.text_limit.tokens if layer.startswith("single_transformer_blocks.") else 0
        return self.latent_layout(bucket).patches(
            config.patch_size_t, config.patch_size, config.patch_size, text_after=text
        )

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Tensor:
        text_BLD, pooled_BP, mask_BL = self.pipeline.encode_prompt(
            prompts,
            device=self.pipeline.text_encoder.device,  # the denoiser may be on another device
            max_sequence_length=self.text_limit.tokens,
        )
        rows, width = self._pooled_rows, self.text_width
        about = torch.cat([pooled_BP, pooled_BP.new_full((len(prompts), 1), TRAINED_AT)], dim=1)
        about = functional.pad(about, (0, rows * width - about.shape[1])).view(-1, rows, width)
        unread = mask_BL.new_zeros(len(prompts), rows)
        return with_mask(
            torch.cat([about.to(text_BLD), text_BLD], dim=1), torch.cat([unread, mask_BL], dim=1)
        )

    def with_guidance(self, text_BLD: Tensor, scale: float) -> Tensor:
        row, column = divmod(self.denoiser.config.pooled_projection_dim, self.text_width)
        text_BLD = text_BLD.clone()
        text_BLD[:, row, column] = scale
        return text_BLD

    def _predict(self, latents_BCfhw: Tensor, t_B: Tensor, text_BLD: Tensor) -> Tensor:
        dtype, rows = self.dtype, self._pooled_rows
        pooled = self.denoiser.config.pooled_projection_dim
        text, read = without_mask(text_BLD)
        about = text[:, :rows].flatten(1).to(dtype)
        text, read = text[:, rows:], read[:, rows:]
        # The model takes the first vectors, by their number; appearance tokens are the last. Their order is nothing to it.
        order = (~read).long().argsort(dim=1, stable=True)
        return self.denoiser(
            hidden_states=latents_BCfhw.to(dtype),
            timestep=t_B,
            encoder_hidden_states=text.gather(1, order.unsqueeze(-1).expand_as(text)).to(dtype),
            encoder_attention_mask=read.gather(1, order).to(dtype),
            pooled_projections=about[:, :pooled],
            guidance=about[:, pooled] * 1000.0 if self.embeds_guidance else None,
        ).sample

    def set_timesteps(self, scheduler: Any, steps: int, bucket: Bucket) -> None:
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, steps + 1)[:-1], device=self.device)

    def checkpointed_blocks(self) -> Iterable[nn.Module]:
        return [*self.denoiser.transformer_blocks, *self.denoiser.single_transformer_blocks]
