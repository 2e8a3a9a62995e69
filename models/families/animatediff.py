"""The family of `AnimateDiffPipeline` on Stable Diffusion 1.5 (models/foundations/unets/animatediff.py). Imports no torch."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from infra.errors import UserError
from models.families.clip import clip_limit
from models.family import FamilySpec, Sourced, read_config, register
from models.sizes import Bucket, Defaults, Sizes
from models.text import TextLimit

if TYPE_CHECKING:
    from models.foundations.base import Foundation

SCHEDULERS = ("DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler")
COMBINE = "`motiondirector foundations combine STABLE_DIFFUSION MOTION_ADAPTER FOLDER`"
METHOD = (
    "configs/training/motion_director/training.yaml of github.com/ExponentialML/AnimateDiff-MotionDirector"
)


@register
class AnimateDiffSpec(FamilySpec):
    name = "animatediff"
    title = "AnimateDiff v2 and v3 on Stable Diffusion 1.5 and its fine-tunes"
    pipeline_class = "AnimateDiffPipeline"
    components: ClassVar = {"denoiser": ("unet",), "text": ("text_encoder", "tokenizer"), "vae": ("vae",)}
    unused: ClassVar = ("motion_adapter", "image_encoder", "feature_extractor")
    defaults: ClassVar = {
        "any (the size is the checkpoint's)": Sourced(
            Defaults(
                Bucket(16, 512, 512),
                fps=8,
                num_inference_steps=25,
                guidance_scale=7.5,
                negative_prompt="bad quality, worse quality",
            ),
            "diffusers' documentation of AnimateDiffPipeline",
        )
    }
    training: ClassVar = {
        "rank": Sourced(32, METHOD),
        "learning_rate": Sourced(5e-4, f"{METHOD} (with Lion; the paper has it with AdamW)"),
        "spatial_learning_rate": Sourced(1e-4, METHOD),
        "dropout": Sourced(0.1, METHOD),
        "gradient_checkpointing": Sourced(True, METHOD),
    }
    limits: ClassVar = (
        "at most as many frames as the motion modules have positions (32 in v2 and v3)",
        "schedulers DDIM, DPM-Solver++ and Euler alone: no LCM (AnimateLCM)",
        "no SDXL, PIA, SparseCtrl, FreeNoise or image prompts",
    )

    def sizes(self, folder: Path, name: str, recommended: dict[str, Any]) -> Sizes:
        index, unet = read_config(folder, ""), read_config(folder, "unet")
        self._check(index, unet, name)
        scale = 2 ** (len(read_config(folder, "vae")["block_out_channels"]) - 1)
        side = unet.get("sample_size") or 64
        height, width = (side, side) if isinstance(side, int) else side
        ((usual, _),) = self.defaults.values()
        usual = replace(usual, bucket=Bucket(usual.bucket.frames, height * scale, width * scale))
        return Sizes(
            name,
            usual.updated(recommended.get("generation", {})),
            scale,
            1,
            (scale, scale),
            most_frames=int(unet.get("motion_max_seq_length") or 32),
        )

    def _check(self, index: dict[str, Any], unet: dict[str, Any], name: str) -> None:
        """Raise UserError for a folder that is not the picture model and the motion modules in one UNet."""
        kind = unet.get("_class_name")
        if kind != "UNetMotionModel":
            raise UserError(
                f"{name} has a {kind} as unet; expected a UNetMotionModel, which has the motion modules in it: make one "
                f"with {COMBINE}.",
                code="unsupported_foundation",
            )
        if unet.get("in_channels", 4) != 4:
            raise UserError(
                f"{name} takes {unet['in_channels']} channels, so it is conditioned on a picture (PIA), which is not "
                "supported; use a text-to-video motion adapter.",
                code="unsupported_foundation",
            )
        scheduler = (index.get("scheduler") or [None, None])[1]
        if scheduler not in SCHEDULERS:
            raise UserError(
                f"{name} has the scheduler {scheduler}; expected one of {', '.join(SCHEDULERS)}: make the folder again "
                f"with {COMBINE}, which writes the DDIM of AnimateDiff's authors.",
                code="unsupported_foundation",
            )

    def original_names(self, layer: str) -> tuple[tuple[str, int], ...]:
        """The layer in a motion LoRA: of AnimateDiff's authors, and as diffusers' script converts it."""
        found = re.fullmatch(r"(.+\.)transformer_blocks\.(\d+)\.attn([12])\.(to_[qkv]|to_out\.0)", layer)
        if found is None or "motion_modules" not in layer:
            return ((layer, 0),)
        module, block, number, projection = found.groups()
        own = f"processor.{projection.removesuffix('.0')}_lora"
        return (
            (
                f"{module}temporal_transformer.transformer_blocks.{block}.attention_blocks.{int(number) - 1}.{own}",
                0,
            ),
            (f"{module}transformer_blocks.{block}.attn{number}.{own}", 0),
        )

    def text_limit(self, folder: Path, name: str) -> TextLimit:
        return clip_limit(folder, name)

    def foundation_class(self) -> type[Foundation]:
        from models.foundations.unets.animatediff import AnimateDiffFoundation

        return AnimateDiffFoundation
