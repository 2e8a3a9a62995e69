"""The family of `WanPipeline` (models/foundations/wan.py). Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from infra.errors import UserError
from models.family import FamilySpec, Sourced, read_config, register
from models.sizes import Bucket, Defaults, Sizes
from models.text import TextLimit

if TYPE_CHECKING:
    from models.foundations.base import Foundation

TOKENS = 512  # the stock pipeline's limit


@register
class WanSpec(FamilySpec):
    name = "wan"
    title = "Wan 2.1 (text to video)"
    pipeline_class = "WanPipeline"
    components: ClassVar = {
        "denoiser": ("transformer",),
        "text": ("text_encoder", "tokenizer"),
        "vae": ("vae",),
    }
    vae_dtype = "float32"  # as its authors advise
    defaults: ClassVar = {
        "2.1": Sourced(
            Defaults(Bucket(81, 480, 832), fps=16, num_inference_steps=50, guidance_scale=5.0),
            "defaults of diffusers' WanPipeline; fps: its example",
        )
    }

    def sizes(self, folder: Path, name: str, recommended: dict[str, Any]) -> Sizes:
        vae = read_config(folder, "vae")
        if read_config(folder, "").get("transformer_2", [None])[0]:
            raise UserError(
                f"{name} has two denoising experts (Wan 2.2), which are not supported; use a Wan 2.1 checkpoint.",
                code="unsupported_foundation",
            )
        _, patch_height, patch_width = read_config(folder, "transformer").get("patch_size") or (1, 2, 2)
        spatial, temporal = vae.get("scale_factor_spatial") or 8, vae.get("scale_factor_temporal") or 4
        usual: Defaults = self.defaults["2.1"].value
        multiples = (spatial * patch_height, spatial * patch_width)
        return Sizes(name, usual.updated(recommended.get("generation", {})), spatial, temporal, multiples)

    def text_limit(self, folder: Path, name: str) -> TextLimit:
        return TextLimit(folder / "tokenizer", name, TOKENS, special_tokens=1)

    def foundation_class(self) -> type[Foundation]:
        from models.foundations.wan import WanFoundation

        return WanFoundation
