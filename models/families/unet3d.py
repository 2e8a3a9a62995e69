"""The family of `TextToVideoSDPipeline` (models/foundations/unets/unet3d.py). Imports no torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from models.families.clip import clip_limit
from models.family import FamilySpec, Sourced, read_config, register
from models.sizes import Bucket, Defaults, Sizes
from models.text import TextLimit

if TYPE_CHECKING:
    from models.foundations.base import Foundation


@register
class UNet3DSpec(FamilySpec):
    name = "unet3d"
    title = "ModelScope, ZeroScope, the embedded model"
    pipeline_class = "TextToVideoSDPipeline"
    components: ClassVar = {"denoiser": ("unet",), "text": ("text_encoder", "tokenizer"), "vae": ("vae",)}
    defaults: ClassVar = {
        "any (the size is the checkpoint's)": Sourced(
            Defaults(Bucket(16, 256, 256), fps=8, num_inference_steps=30, guidance_scale=12.0),
            "the inference of MotionDirector's published code",
        )
    }

    def sizes(self, folder: Path, name: str, recommended: dict[str, Any]) -> Sizes:
        scale = 2 ** (len(read_config(folder, "vae")["block_out_channels"]) - 1)
        side = read_config(folder, "unet").get("sample_size") or 32
        height, width = (side, side) if isinstance(side, int) else side
        ((usual, _),) = self.defaults.values()
        usual = replace(usual, bucket=Bucket(usual.bucket.frames, height * scale, width * scale))
        return Sizes(name, usual.updated(recommended.get("generation", {})), scale, 1, (scale, scale))

    def text_limit(self, folder: Path, name: str) -> TextLimit:
        return clip_limit(folder, name)

    def foundation_class(self) -> type[Foundation]:
        from models.foundations.unets.unet3d import UNet3DFoundation

        return UNet3DFoundation
