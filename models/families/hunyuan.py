"""The family of `HunyuanVideoPipeline` (models/foundations/hunyuan/hunyuan.py). Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from infra.errors import UserError
from models.family import FamilySpec, Sourced, read_config, register
from models.sizes import Bucket, Defaults, Sizes
from models.text import TextLimit

if TYPE_CHECKING:
    from models.foundations.base import Foundation

# Of diffusers in a block, and of the authors' code: ComfyUI's names, then the authors' own.
DOUBLE = {
    "attn.to_q": ("img_attn.qkv", "img_attn_qkv", 0),
    "attn.to_k": ("img_attn.qkv", "img_attn_qkv", 1),
    "attn.to_v": ("img_attn.qkv", "img_attn_qkv", 2),
    "attn.to_out.0": ("img_attn.proj", "img_attn_proj", 0),
    "attn.add_q_proj": ("txt_attn.qkv", "txt_attn_qkv", 0),
    "attn.add_k_proj": ("txt_attn.qkv", "txt_attn_qkv", 1),
    "attn.add_v_proj": ("txt_attn.qkv", "txt_attn_qkv", 2),
    "attn.to_add_out": ("txt_attn.proj", "txt_attn_proj", 0),
    "ff.net.0.proj": ("img_mlp.0", "img_mlp.fc1", 0),
    "ff.net.2": ("img_mlp.2", "img_mlp.fc2", 0),
    "ff_context.net.0.proj": ("txt_mlp.0", "txt_mlp.fc1", 0),
    "ff_context.net.2": ("txt_mlp.2", "txt_mlp.fc2", 0),
    "norm1.linear": ("img_mod.lin", "img_mod.linear", 0),
    "norm1_context.linear": ("txt_mod.lin", "txt_mod.linear", 0),
}
SINGLE = {
    "attn.to_q": ("linear1", "linear1", 0),
    "attn.to_k": ("linear1", "linear1", 1),
    "attn.to_v": ("linear1", "linear1", 2),
    "proj_mlp": ("linear1", "linear1", 3),
    "proj_out": ("linear2", "linear2", 0),
    "norm.linear": ("modulation.lin", "modulation.linear", 0),
}
TOKENS = 256  # the stock pipeline's limit, after its template


@register
class HunyuanVideoSpec(FamilySpec):
    name = "hunyuan"
    title = "HunyuanVideo"
    pipeline_class = "HunyuanVideoPipeline"
    components: ClassVar = {
        "denoiser": ("transformer",),
        "text": ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
        "vae": ("vae",),
    }
    defaults: ClassVar = {
        "any": Sourced(
            Defaults(Bucket(129, 720, 1280), fps=24, num_inference_steps=50, guidance_scale=6.0),
            "defaults of diffusers' HunyuanVideoPipeline; fps: sample_video.py of github.com/Tencent/HunyuanVideo",
        )
    }
    training: ClassVar = {
        "learning_rate": Sourced(2e-4, "docs/hunyuan_video.md of github.com/kohya-ss/musubi-tuner"),
        "rank": Sourced(32, "docs/hunyuan_video.md of github.com/kohya-ss/musubi-tuner"),
        "gradient_checkpointing": Sourced(True, "docs/hunyuan_video.md of github.com/kohya-ss/musubi-tuner"),
    }
    limits: ClassVar = (
        "text to video alone: image-to-video transformers are refused",
        "no negative prompt: the model takes its guidance as an input",
    )

    def sizes(self, folder: Path, name: str, recommended: dict[str, Any]) -> Sizes:
        vae, transformer = read_config(folder, "vae"), read_config(folder, "transformer")
        if transformer.get("image_condition_type"):
            raise UserError(
                f"{name} is HunyuanVideo's image-to-video, which is not supported; use a text-to-video checkpoint.",
                code="unsupported_foundation",
            )
        spatial = vae.get("spatial_compression_ratio") or 8
        temporal = vae.get("temporal_compression_ratio") or 4
        multiple = spatial * (transformer.get("patch_size") or 2)
        usual: Defaults = self.defaults["any"].value
        return Sizes(
            name, usual.updated(recommended.get("generation", {})), spatial, temporal, (multiple, multiple)
        )

    def text_limit(self, folder: Path, name: str) -> TextLimit:
        return TextLimit(folder / "tokenizer", name, TOKENS, special_tokens=1)

    def original_names(self, layer: str) -> tuple[tuple[str, int], ...]:
        for kind, original, names in (
            ("transformer_blocks.", "double_blocks", DOUBLE),
            ("single_transformer_blocks.", "single_blocks", SINGLE),
        ):
            number, _, rest = layer.removeprefix(kind).partition(".")
            if layer.startswith(kind) and rest in names:
                comfy, own, part = names[rest]
                return tuple((f"{original}.{number}.{name}", part) for name in dict.fromkeys((comfy, own)))
        return ()

    def foundation_class(self) -> type[Foundation]:
        from models.foundations.hunyuan.hunyuan import HunyuanVideoFoundation

        return HunyuanVideoFoundation
