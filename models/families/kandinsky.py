"""The family of `Kandinsky5T2VPipeline` (models/foundations/kandinsky.py). Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from infra.errors import UserError
from models.family import FamilySpec, Sourced, read_config, register
from models.sizes import Bucket, Defaults, Sizes
from models.text import TextLimit

if TYPE_CHECKING:
    from models.foundations.base import Foundation

TOKENS = 512  # the stock pipeline's limit, after its template
TRAINER = "docs/kandinsky5.md of github.com/sdbds/musubi-tuner (01afe93)"


@register
class Kandinsky5Spec(FamilySpec):
    name = "kandinsky5"
    title = "Kandinsky 5"
    pipeline_class = "Kandinsky5T2VPipeline"
    components: ClassVar = {
        "denoiser": ("transformer",),
        "text": ("text_encoder", "text_encoder_2", "tokenizer_2"),
        "vae": ("vae",),
    }
    # Qwen's processor reads pictures and videos, too, and needs torchvision for them: the foundation loads its tokenizer.
    unused: ClassVar = ("tokenizer",)
    defaults: ClassVar = {
        "any": Sourced(
            Defaults(
                Bucket(121, 512, 768),
                fps=24,
                num_inference_steps=50,
                guidance_scale=5.0,
                negative_prompt=(
                    "Static, 2D cartoon, cartoon, 2d animation, paintings, images, worst quality, low quality, ugly, deformed, "
                    "walking backwards"
                ),
            ),
            "defaults of diffusers' Kandinsky5T2VPipeline; fps: its example",
        )
    }
    training: ClassVar = {
        "learning_rate": Sourced(1e-4, TRAINER),
        "rank": Sourced(32, TRAINER),
        "adam_beta2": Sourced(0.95, TRAINER),
        "gradient_checkpointing": Sourced(True, TRAINER),
    }
    limits: ClassVar = (
        "text to video alone; checkpoints with sparse attention (nabla: those of 10 seconds, some of Pro) are refused",
        "prompts of other lengths in a batch cost a forward each: the model has no mask for its text",
        "queries and keys are rounded to bfloat16 in every precision, so latents of a mixed batch are within 1e-3 of the stock "
        "pipeline's; alone they are the same",
        "a model distilled for guidance or steps has the same defaults; give guidance 1, or its steps",
    )

    def sizes(self, folder: Path, name: str, recommended: dict[str, Any]) -> Sizes:
        vae, transformer = read_config(folder, "vae"), read_config(folder, "transformer")
        if (kind := transformer.get("attention_type", "regular")) == "nabla":
            raise UserError(
                f"{name} has {kind} attention, which is sparse and not supported; use a checkpoint with full attention, such "
                "as one of the Lite models of 5 seconds.",
                code="unsupported_foundation",
            )
        patch_frames, *patch = transformer.get("patch_size") or (1, 2, 2)
        if patch_frames != 1:
            raise UserError(
                f"{name} packs several latent frames into a token, which no published Kandinsky 5 does; use one with "
                "patch_size [1, 2, 2].",
                code="unsupported_foundation",
            )
        spatial = vae.get("spatial_compression_ratio") or 8
        temporal = vae.get("temporal_compression_ratio") or 4
        height, width = (spatial * side for side in patch)
        usual: Defaults = self.defaults["any"].value
        return Sizes(
            name, usual.updated(recommended.get("generation", {})), spatial, temporal, (height, width)
        )

    def text_limit(self, folder: Path, name: str) -> TextLimit:
        return TextLimit(folder / "tokenizer", name, TOKENS, special_tokens=1)

    def foundation_class(self) -> type[Foundation]:
        from models.foundations.kandinsky import Kandinsky5Foundation

        return Kandinsky5Foundation
