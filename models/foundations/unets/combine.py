"""Makes an AnimateDiff foundation of a Stable Diffusion 1.5 checkpoint and a motion adapter."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import torch
from diffusers import AnimateDiffPipeline, DDIMScheduler, MotionAdapter

from infra.errors import InvalidInput


def animatediff_ddim() -> DDIMScheduler:
    """The scheduler of AnimateDiff's authors (configs/inference/inference-v2.yaml and -v3.yaml of their repository)."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="linear",
        steps_offset=1,
        clip_sample=False,
    )


def combine(base: Path, motion: Path, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write an `AnimateDiffPipeline` folder whose UNet has both, with the scheduler of AnimateDiff's authors.

    Args:
        base: a `StableDiffusionPipeline` folder.
        motion: a `MotionAdapter` folder.
        folder: must not exist.

    Raises:
        InvalidInput: a folder of another kind, parts that do not fit each other, weights that are not safetensors, or a
            place that is taken.
    """
    _check_class(base / "model_index.json", "StableDiffusionPipeline", "a Stable Diffusion 1.5 checkpoint")
    _check_class(motion / "config.json", "MotionAdapter", "a motion adapter")
    if folder.exists():
        raise InvalidInput(f"{folder} exists already; give a folder that does not.", code="exists")
    try:
        adapter = MotionAdapter.from_pretrained(motion, use_safetensors=True, local_files_only=True)
        pipeline = AnimateDiffPipeline.from_pretrained(
            base,
            motion_adapter=adapter,
            scheduler=animatediff_ddim(),
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InvalidInput(
            f"{motion} and {base} cannot be combined: {reason}", code="invalid_foundation"
        ) from error
    pipeline.register_modules(motion_adapter=None)  # its weights are in the UNet
    pipeline.unet.to(dtype)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        pipeline.save_pretrained(Path(scratch) / "model", safe_serialization=True)
        os.rename(Path(scratch) / "model", folder)
    return folder


def _check_class(file: Path, expected: str, what: str) -> None:
    """Raise InvalidInput unless a configuration file names this class of diffusers."""
    try:
        found = json.loads(file.read_text()).get("_class_name")
    except (OSError, ValueError, AttributeError):
        found = None
    if found != expected:
        told = f"is a {found}" if found else f"has no readable {file.name}"
        raise InvalidInput(
            f"{file.parent} {told}; expected {what} ({expected}) in diffusers' format.",
            code="invalid_foundation",
        )
