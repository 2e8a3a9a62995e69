"""The family of `HunyuanVideoPipeline` (models/foundations/hunyuan.py). Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from infra.errors import UserError
from models.family import FamilySpec, Sourced, read_config, register
from models.sizes import Bucket, Defaults, Sizes
from models.text import TextLimit

if TYPE_CHECKING:
    from models.foundations.base import Foundation

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

    def foundation_class(self) -> type[Foundation]:
        from models.foundations.hunyuan import HunyuanVideoFoundation

        return HunyuanVideoFoundation
