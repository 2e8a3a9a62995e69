"""The family of `HunyuanVideo15Pipeline` (models/foundations/hunyuan/hunyuan15.py). Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from infra.errors import UserError
from models.families.hunyuan import DOUBLE
from models.family import FamilySpec, Sourced, read_config, register
from models.sizes import Bucket, Defaults, Sizes
from models.text import TextLimit

if TYPE_CHECKING:
    from models.foundations.base import Foundation

TOKENS = 1000  # the stock pipeline's limit, after its template
TRAINER = "docs/hunyuan_video_1_5.md of github.com/kohya-ss/musubi-tuner"
GENERATION = (
    "size: diffusers' HunyuanVideo15Pipeline; frames, fps and steps: generate.py of github.com/Tencent-Hunyuan/HunyuanVideo-1.5; "
    f"guidance: {TRAINER}"
)
# The authors hold these apart, where HunyuanVideo (and ComfyUI for both) has one matrix.
APART = {
    f"attn.{ours}": f"{stream}_attn_{one}"
    for stream, names in (("img", "to_{}"), ("txt", "add_{}_proj"))
    for one in "qkv"
    for ours in (names.format(one),)
}


@register
class HunyuanVideo15Spec(FamilySpec):
    name = "hunyuan15"
    title = "HunyuanVideo 1.5"
    pipeline_class = "HunyuanVideo15Pipeline"
    components: ClassVar = {
        "denoiser": ("transformer",),
        "text": ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
        "vae": ("vae",),
    }
    looked_at = frozenset({"vae"})
    defaults: ClassVar = {
        "480p": Sourced(
            Defaults(Bucket(121, 480, 848), fps=24, num_inference_steps=50, guidance_scale=6.0),
            GENERATION,
        ),
        "720p": Sourced(
            Defaults(Bucket(121, 720, 1280), fps=24, num_inference_steps=50, guidance_scale=6.0),
            GENERATION,
        ),
    }
    training: ClassVar = {
        "learning_rate": Sourced(1e-4, TRAINER),
        "rank": Sourced(32, TRAINER),
        "gradient_checkpointing": Sourced(True, TRAINER),
    }
    limits: ClassVar = (
        "text to video alone: image-to-video and upsampling transformers are refused",
        "the guidance is a request's scale, not the checkpoint's guider",
    )

    def sizes(self, folder: Path, name: str, recommended: dict[str, Any]) -> Sizes:
        vae, transformer = read_config(folder, "vae"), read_config(folder, "transformer")
        latents = vae.get("latent_channels") or 32
        if (
            transformer.get("task_type", "i2v") != "t2v"
            or transformer.get("in_channels", 65) != 2 * latents + 1
        ):
            raise UserError(
                f"{name} is not HunyuanVideo 1.5's text-to-video, the only one that is supported; use a t2v checkpoint.",
                code="unsupported_foundation",
            )
        if transformer.get("use_meanflow"):
            raise UserError(
                f"{name} takes a second timestep (MeanFlow), which is not supported; use a checkpoint without it.",
                code="unsupported_foundation",
            )
        spatial = vae.get("spatial_compression_ratio") or 16
        temporal = vae.get("temporal_compression_ratio") or 4
        multiple = spatial * (transformer.get("patch_size") or 1)
        usual: Defaults = self.defaults[
            "480p" if transformer.get("target_size", 640) <= 640 else "720p"
        ].value
        return Sizes(
            name, usual.updated(recommended.get("generation", {})), spatial, temporal, (multiple, multiple)
        )

    def text_limit(self, folder: Path, name: str) -> TextLimit:
        return TextLimit(folder / "tokenizer", name, TOKENS, special_tokens=1)

    def original_names(self, layer: str) -> tuple[tuple[str, int], ...]:
        number, _, rest = layer.removeprefix("transformer_blocks.").partition(".")
        if not layer.startswith("transformer_blocks.") or rest not in DOUBLE:
            return ()
        comfy, own, part = DOUBLE[rest]
        block = f"double_blocks.{number}."
        apart = ((block + APART[rest], 0),) if rest in APART else ()
        return (*((block + name, part) for name in dict.fromkeys((comfy, own))), *apart)

    def foundation_class(self) -> type[Foundation]:
        from models.foundations.hunyuan.hunyuan15 import HunyuanVideo15Foundation

        return HunyuanVideo15Foundation
