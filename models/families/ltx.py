"""The family of `LTXPipeline` (models/foundations/ltx/ltx.py). Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from infra.errors import UserError
from models.family import FamilySpec, Sourced, read_config, register
from models.sizes import Bucket, Defaults, Sizes
from models.text import TextLimit

if TYPE_CHECKING:
    from models.foundations.base import Foundation

TOKENS = 128  # the stock pipeline's limit
TRAINER = "configs/ltxv_2b_lora_low_vram.yaml of github.com/Lightricks/LTX-Video-Trainer"


@register
class LTXSpec(FamilySpec):
    name = "ltx"
    title = "LTX-Video"
    pipeline_class = "LTXPipeline"
    components: ClassVar = {
        "denoiser": ("transformer",),
        "text": ("text_encoder", "tokenizer"),
        "vae": ("vae",),
    }

    defaults: ClassVar = {
        "any": Sourced(
            Defaults(
                Bucket(161, 512, 704),
                fps=25,
                num_inference_steps=50,
                guidance_scale=3.0,
                negative_prompt="worst quality, inconsistent motion, blurry, jittery, distorted",
            ),
            "defaults of diffusers' LTXPipeline; negative prompt: its example",
        )
    }
    training: ClassVar = {
        "learning_rate": Sourced(2e-4, TRAINER),
        "rank": Sourced(32, TRAINER),
        "steps": Sourced(1500, TRAINER),
        "schedule": Sourced("linear", TRAINER),
        "gradient_checkpointing": Sourced(True, TRAINER),
    }
    limits: ClassVar = (
        "text to video alone, by the plain pipeline: no first frame, no upsampling in several stages",
        "a decoder that also denoises (0.9.1 and later) is asked to denoise nothing",
    )

    def sizes(self, folder: Path, name: str, recommended: dict[str, Any]) -> Sizes:
        vae, transformer = read_config(folder, "vae"), read_config(folder, "transformer")
        if transformer.get("patch_size", 1) != 1 or transformer.get("patch_size_t", 1) != 1:
            raise UserError(
                f"{name} packs several latents into a token, which no published LTX-Video does; use one with patch_size 1.",
                code="unsupported_foundation",
            )
        halved = sum(vae.get("spatio_temporal_scaling") or (True, True, True, False))
        spatial = vae.get("spatial_compression_ratio") or vae.get("patch_size", 4) * 2**halved
        temporal = vae.get("temporal_compression_ratio") or vae.get("patch_size_t", 1) * 2**halved
        usual: Defaults = self.defaults["any"].value
        return Sizes(
            name, usual.updated(recommended.get("generation", {})), spatial, temporal, (spatial, spatial)
        )

    comfyui = True  # diffusers' names, under its own prefix

    def text_limit(self, folder: Path, name: str) -> TextLimit:
        return TextLimit(folder / "tokenizer", name, TOKENS, special_tokens=1)

    def foundation_class(self) -> type[Foundation]:
        from models.foundations.ltx.ltx import LTXFoundation

        return LTXFoundation
