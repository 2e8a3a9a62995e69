"""Kandinsky 5: `Kandinsky5T2VPipeline` with `Kandinsky5Transformer3DModel`: full 3D attention, cross-attention to the text.

The denoiser has the channels last, and so is the noise drawn. Its text is a Qwen's hidden states, whose number counts (no
mask), and one CLIP vector. Both are one tensor here [B, n + L, D + 1]: n rows hold the CLIP vector, the others the hidden
states; the last channel says which are there. A batch is answered by as many forwards as its texts have lengths.

No layer is only temporal: both paths adapt the same modules, as in Wan.

Shapes: B samples, L D text, P width of the CLIP vector.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer

from models.family import FamilySpec
from models.foundations.base import Bucket
from models.foundations.flow import FlowFoundation, first_read, with_mask, without_mask
from models.foundations.shared.groups import answer_by_kind
from models.foundations.shared.layout import TokenLayout
from models.foundations.shared.noise import FlowNoise
from models.foundations.shared.targets import linears, same_on_both_paths

TARGET = re.compile(
    r"visual_transformer_blocks\.\d+\.(self_attention\.(to_query|to_key|to_value|out_layer)"
    r"|feed_forward\.(in_layer|out_layer))"
)
# Adapters of other tools also change the attention to the text.
MORE = re.compile(r"visual_transformer_blocks\.\d+\.cross_attention\.(to_query|to_key|to_value|out_layer)")


class Kandinsky5Foundation(FlowFoundation):
    """A `Kandinsky5T2VPipeline`."""

    denoiser_name = "transformer"
    adapter_key_prefix = "transformer."  # read by `Kandinsky5T2VPipeline.load_lora_weights`
    compiles = False  # how often the denoiser is asked depends on the texts
    # The denoiser rounds queries and keys to bfloat16 when it turns them by their positions, in float32, too. The last bit
    # of a sum, which depends on the batch, then moves some by 1/256.
    batch_rounding = 1e-3

    def __init__(self, pipeline: Any, spec: FamilySpec, **about: Any) -> None:
        super().__init__(pipeline, spec, **about)
        if pipeline.text_encoder is not None:
            pipeline.text_encoder_2.requires_grad_(False).eval()
            tokenizer = AutoTokenizer.from_pretrained(self.folder / "tokenizer", local_files_only=True)
            pipeline.register_modules(tokenizer=tokenizer)
        self.targets = same_on_both_paths(self.denoiser, TARGET)
        self.more_targets = linears(self.denoiser, MORE)
        config = pipeline.scheduler.config
        self.noise = FlowNoise(int(config.num_train_timesteps), float(config.shift))

    @property
    def text_width(self) -> int:
        return int(self.denoiser.config.in_text_dim)

    @property
    def _pooled_rows(self) -> int:
        """Rows n of a text that hold the CLIP vector."""
        return math.ceil(self.denoiser.config.in_text_dim2 / self.text_width)

    @property
    def text_shape(self) -> tuple[int, int]:
        return (self._pooled_rows + self.text_limit.tokens, self.text_width + 1)  # with the mask

    def latent_shape(self, bucket: Bucket) -> tuple[int, int, int, int]:
        return self.causal_latent_shape(self.denoiser.config.in_visual_dim, bucket)

    def draw_noise(self, bucket: Bucket, generator: torch.Generator) -> Tensor:
        channels, *size = self.latent_shape(bucket)
        return torch.randn(*size, channels, generator=generator).movedim(-1, 0)

    def token_layout(self, layer: str, bucket: Bucket) -> TokenLayout:
        return self.latent_layout(bucket).patches(*self.denoiser.config.patch_size)

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Tensor:
        return torch.cat([self._encode_one(prompt) for prompt in prompts])

    def _encode_one(self, prompt: str) -> Tensor:
        """The text of a prompt alone: beside another it would be padded, and padding is read."""
        limit, rows, width = self.text_limit.tokens, self._pooled_rows, self.text_width
        text_1LD, pooled_1P, _ = self.pipeline.encode_prompt(
            [prompt],
            max_sequence_length=limit,
            device=self.pipeline.text_encoder.device,  # the denoiser may be on another device
        )
        pooled = functional.pad(pooled_1P, (0, rows * width - pooled_1P.shape[1])).view(1, rows, width)
        padded = functional.pad(text_1LD, (0, 0, 0, limit - text_1LD.shape[1]))
        read = torch.zeros(1, rows + limit, device=padded.device)
        read[:, rows : rows + text_1LD.shape[1]] = 1
        return with_mask(torch.cat([pooled.to(padded), padded], dim=1), read)

    def _predict(self, latents_BCfhw: Tensor, t_B: Tensor, text_BLD: Tensor) -> Tensor:
        config, rows = self.denoiser.config, self._pooled_rows
        text, read = without_mask(text_BLD)
        pooled = text[:, :rows].flatten(1)[:, : config.in_text_dim2]
        words, read = first_read(text[:, rows:], read[:, rows:])
        lengths = read.sum(1)
        latents = latents_BCfhw.movedim(1, -1)
        if config.visual_cond:  # a first frame and its mask
            latents = functional.pad(latents, (0, latents.shape[-1] + 1))

        def ask(samples: Tensor | slice) -> Tensor:
            length = int(lengths[samples][0])
            return self._ask(latents[samples], t_B[samples], words[samples, :length], pooled[samples])

        return answer_by_kind(lengths, self.denoiser, self.bank, ask).movedim(-1, 1)

    def _ask(self, latents_BfhwC: Tensor, t_B: Tensor, words_BLD: Tensor, pooled_BP: Tensor) -> Tensor:
        dtype, device = self.dtype, latents_BfhwC.device
        _, *size, _ = latents_BfhwC.shape
        sides = (pixels * self.sizes.spatial_scale for pixels in size[1:])
        patches = (
            number // patch for number, patch in zip(size, self.denoiser.config.patch_size, strict=True)
        )
        return self.denoiser(
            hidden_states=latents_BfhwC.to(dtype),
            encoder_hidden_states=words_BLD.to(dtype),
            timestep=t_B,
            pooled_projections=pooled_BP.to(dtype),
            visual_rope_pos=[torch.arange(number, device=device) for number in patches],
            text_rope_pos=torch.arange(words_BLD.shape[1], device=device),
            scale_factor=self.pipeline._get_scale_factor(*sides),
        ).sample

    def checkpointed_blocks(self) -> Iterable[nn.Module]:
        return list(self.denoiser.visual_transformer_blocks)
