"""The family of `SkyReelsV2DiffusionForcingPipeline` (models/foundations/wan/skyreels.py). Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from infra.errors import UserError
from models.families.wan import TRAINER, WanSpec
from models.family import FamilySpec, Sourced, read_config, register
from models.sizes import Bucket, Defaults, Sizes

if TYPE_CHECKING:
    from models.foundations.base import Foundation

WAN = f"{TRAINER}, for Wan, which it continues"


@register
class SkyReelsSpec(FamilySpec):
    name = "skyreels"
    title = "SkyReels-V2 diffusion forcing"
    pipeline_class = "SkyReelsV2DiffusionForcingPipeline"
    components: ClassVar = {
        "denoiser": ("transformer",),
        "text": ("text_encoder", "tokenizer"),
        "vae": ("vae",),
    }
    vae_dtype = "float32"  # as Wan's authors advise
    defaults: ClassVar = {
        "any": Sourced(
            Defaults(Bucket(97, 544, 960), fps=24, num_inference_steps=50, guidance_scale=6.0),
            "defaults of diffusers' SkyReelsV2DiffusionForcingPipeline (540P)",
        )
    }
    training: ClassVar = {
        "learning_rate": Sourced(2e-4, WAN),
        "rank": Sourced(32, WAN),
        "gradient_checkpointing": Sourced(True, WAN),
    }
    limits: ClassVar = (
        "all frames are denoised together (the stock pipeline's synchronous mode), in training, too: no long videos block by "
        "block, and checkpoints with blocks in their attention are refused",
        "text to video alone: image-to-video transformers are refused",
        "720P has the defaults of 540P; its authors have 121 frames of 720x1280",
    )
    comfyui = True

    def sizes(self, folder: Path, name: str, recommended: dict[str, Any]) -> Sizes:
        vae, transformer = read_config(folder, "vae"), read_config(folder, "transformer")
        if transformer.get("image_dim") or transformer.get("in_channels", 16) != (vae.get("z_dim") or 16):
            raise UserError(
                f"{name} is SkyReels-V2's image-to-video, which is not supported; use a text-to-video checkpoint.",
                code="unsupported_foundation",
            )
        if (block := transformer.get("num_frame_per_block") or 1) > 1:
            raise UserError(
                f"{name} attends in blocks of {block} latent frames, which is not supported; set num_frame_per_block to 1 in its "
                "transformer/config.json, as published, to denoise all frames together.",
                code="unsupported_foundation",
            )
        _, patch_height, patch_width = transformer.get("patch_size") or (1, 2, 2)
        spatial, temporal = vae.get("scale_factor_spatial") or 8, vae.get("scale_factor_temporal") or 4
        usual: Defaults = self.defaults["any"].value
        multiples = (spatial * patch_height, spatial * patch_width)
        return Sizes(name, usual.updated(recommended.get("generation", {})), spatial, temporal, multiples)

    text_limit = WanSpec.text_limit
    original_names = WanSpec.original_names

    def foundation_class(self) -> type[Foundation]:
        from models.foundations.wan.skyreels import SkyReelsFoundation

        return SkyReelsFoundation
