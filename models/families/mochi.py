"""The family of `MochiPipeline` (models/foundations/mochi.py). Imports no torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from models.family import FamilySpec, Sourced, read_config, register
from models.sizes import Bucket, Defaults, Sizes
from models.text import TextLimit

if TYPE_CHECKING:
    from models.foundations.base import Foundation

TOKENS = 256  # the stock pipeline's limit
TRAINER = "demos/fine_tuner/README.md of github.com/genmoai/mochi"

# Of diffusers in a block, and of the authors' code: the name, and the number among the layers that one matrix holds.
# Their feed-forward's first matrix holds gate and values in another order than diffusers', so it has no name here.
ORIGINAL = {
    "attn1.to_q": ("attn.qkv_x", 0),
    "attn1.to_k": ("attn.qkv_x", 1),
    "attn1.to_v": ("attn.qkv_x", 2),
    "attn1.to_out.0": ("attn.proj_x", 0),
    "attn1.add_q_proj": ("attn.qkv_y", 0),
    "attn1.add_k_proj": ("attn.qkv_y", 1),
    "attn1.add_v_proj": ("attn.qkv_y", 2),
    "attn1.to_add_out": ("attn.proj_y", 0),
    "ff.net.2": ("mlp_x.w2", 0),
    "ff_context.net.2": ("mlp_y.w2", 0),
}


@register
class MochiSpec(FamilySpec):
    name = "mochi"
    title = "Mochi 1"
    pipeline_class = "MochiPipeline"
    components: ClassVar = {
        "denoiser": ("transformer",),
        "text": ("text_encoder", "tokenizer"),
        "vae": ("vae",),
    }
    defaults: ClassVar = {
        "any": Sourced(
            Defaults(Bucket(85, 480, 848), fps=30, num_inference_steps=64, guidance_scale=4.5),
            f"size, steps and guidance: defaults of diffusers' MochiPipeline; frames and fps: {TRAINER}",
        )
    }
    training: ClassVar = {
        "learning_rate": Sourced(1e-4, f"{TRAINER}: 1e-4 or 2e-4"),
        "steps": Sourced(1000, TRAINER),
        "gradient_checkpointing": Sourced(True, TRAINER),
    }
    limits: ClassVar = (
        "two steps at least: the schedule has a linear and a quadratic part",
        "files of other tools: the first matrix of their feed-forward is not read",
    )

    def sizes(self, folder: Path, name: str, recommended: dict[str, Any]) -> Sizes:
        vae = read_config(folder, "vae")
        spatial = math.prod(vae.get("spatial_expansions") or (2, 2, 2))
        temporal = math.prod(vae.get("temporal_expansions") or (1, 2, 3))
        multiple = spatial * (read_config(folder, "transformer").get("patch_size") or 2)
        usual: Defaults = self.defaults["any"].value
        return Sizes(
            name, usual.updated(recommended.get("generation", {})), spatial, temporal, (multiple, multiple)
        )

    def text_limit(self, folder: Path, name: str) -> TextLimit:
        return TextLimit(folder / "tokenizer", name, TOKENS, special_tokens=1)

    def original_names(self, layer: str) -> tuple[tuple[str, int], ...]:
        number, _, rest = layer.removeprefix("transformer_blocks.").partition(".")
        if not layer.startswith("transformer_blocks.") or rest not in ORIGINAL:
            return ()
        original, part = ORIGINAL[rest]
        return ((f"blocks.{number}.{original}", part),)

    def foundation_class(self) -> type[Foundation]:
        from models.foundations.mochi import MochiFoundation

        return MochiFoundation
