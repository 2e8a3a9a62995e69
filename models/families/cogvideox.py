"""The family of `CogVideoXPipeline`: 2b, 5b and 1.5 (models/foundations/cogvideox.py). Imports no torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from infra.errors import UserError
from models.family import FamilySpec, Sourced, read_config, register
from models.sizes import Bucket, Defaults, Sizes
from models.text import TextLimit

if TYPE_CHECKING:
    from models.foundations.base import Foundation

CARD = "model cards of zai-org/CogVideoX-2b, -5b and CogVideoX1.5-5B"
TRAINER = "finetune/ of github.com/zai-org/CogVideo"


@register
class CogVideoXSpec(FamilySpec):
    name = "cogvideox"
    title = "CogVideoX 2b, 5b and 1.5"
    pipeline_class = "CogVideoXPipeline"
    components: ClassVar = {
        "denoiser": ("transformer",),
        "text": ("text_encoder", "tokenizer"),
        "vae": ("vae",),
    }
    defaults: ClassVar = {
        "2b, 5b": Sourced(
            Defaults(Bucket(49, 480, 720), fps=8, num_inference_steps=50, guidance_scale=6.0), CARD
        ),
        "1.5": Sourced(
            Defaults(Bucket(81, 768, 1360), fps=16, num_inference_steps=50, guidance_scale=6.0), CARD
        ),
    }
    training: ClassVar = {
        "rank": Sourced(64, f"{TRAINER}, README.md: 64 or more"),
        "learning_rate": Sourced(1e-4, "examples/cogvideo/README.md of diffusers: 1e-4 to 1e-3"),
        "adam_beta2": Sourced(0.95, f"{TRAINER}, schemas/args.py"),
        "gradient_checkpointing": Sourced(True, f"{TRAINER}, schemas/args.py"),
    }
    limits: ClassVar = (
        "text to video alone: image-to-video transformers are refused",
        "no dynamic guidance (`use_dynamic_cfg`)",
        "1.5: the frame that the stock pipeline makes and drops is a copy of the first one in training, as in its authors' trainer",
    )

    def sizes(self, folder: Path, name: str, recommended: dict[str, Any]) -> Sizes:
        transformer, vae = read_config(folder, "transformer"), read_config(folder, "vae")
        channels = vae.get("latent_channels") or 16
        if (transformer.get("in_channels") or 16) != channels or transformer.get("ofs_embed_dim"):
            raise UserError(
                f"{name} has a transformer that takes {transformer.get('in_channels')} channels, and its VAE makes "
                f"{channels}: it is CogVideoX's image-to-video, which is not supported; use a text-to-video checkpoint.",
                code="unsupported_foundation",
            )
        spatial = 2 ** (len(vae.get("block_out_channels") or (128, 256, 256, 512)) - 1)
        temporal = int(vae.get("temporal_compression_ratio") or 4)
        patch, patch_frames = transformer.get("patch_size") or 2, transformer.get("patch_size_t")
        usual: Defaults = self.defaults["1.5" if patch_frames else "2b, 5b"].value
        return Sizes(
            name,
            usual.updated(recommended.get("generation", {})),
            spatial,
            temporal,
            (spatial * patch, spatial * patch),
            # The VAE decodes an even number of latent frames to 4 frames each, without the single first one.
            frame_step=temporal * math.lcm(2, patch_frames or 1),
        )

    def text_limit(self, folder: Path, name: str) -> TextLimit:
        tokens = read_config(folder, "transformer").get("max_text_seq_length") or 226
        return TextLimit(folder / "tokenizer", name, int(tokens), special_tokens=1)

    def foundation_class(self) -> type[Foundation]:
        from models.foundations.cogvideox import CogVideoXFoundation

        return CogVideoXFoundation
