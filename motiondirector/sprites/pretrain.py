"""Trains the sprite foundation from scratch or from a checkpoint: `motiondirector sprites pretrain` as a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from infra.allocator import keep_freed_memory
from infra.errors import UserError
from motiondirector.sprites.config import PretrainConfig
from training.pretraining.denoiser import Recipe, build_parts, load_parts, save_pipeline, train_unet
from training.pretraining.vae import DECODER_STEPS, VAE_STEPS, train_vae

Report = Callable[[int, Mapping[str, Any]], None]  # (steps done, a line of the log)


def pretrain(
    out: Path,
    config: PretrainConfig | None = None,
    follow: Callable[[int], Report] = lambda total: lambda step, record: None,
) -> Path:
    """Train the stages that the configuration names; called again, it continues from the last state.

    Args:
        out: folder of the run: states to resume from, log.jsonl, pipeline/.
        follow: called with the number of steps of each stage; returns a callback for the stage's steps.

    Returns the folder of the stock TextToVideoSDPipeline. Raises UserError if the result of an earlier stage is missing.
    """
    config = config or PretrainConfig()
    check(out, config)
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if config.threads:
        torch.set_num_threads(config.threads)
    if device == "cpu":
        keep_freed_memory()
    same: dict[str, Any] = {"device": device, "every": config.every, "resume": config.resume}
    # Do not overwrite weights that an earlier call of the same command has trained further.
    kept = config.resume and any((out / f"{name}_state.pt").exists() for name in ("decoder", "unet"))
    if config.init is not None and not kept:
        load_parts(config.init).vae.save_pretrained(out / "vae")

    def steps_of(stage: str, usual: int) -> int:
        return (config.steps if config.stage == stage else None) or usual

    if config.stages("vae") and config.init is None:
        total = steps_of("vae", VAE_STEPS)
        train_vae(out, steps=total, progress=follow(total), seed=config.seed, **same)
    if config.stages("decoder"):
        total = steps_of("decoder", DECODER_STEPS)
        train_vae(out, steps=total, decoder_only=True, progress=follow(total), seed=config.seed, **same)
    vae = AutoencoderKL.from_pretrained(out / "vae")
    if config.stages("unet"):
        recipe = recipe_of(config)
        parts = (
            build_parts(out, vae, config.seed)
            if config.init is None
            else replace(load_parts(config.init), vae=vae)
        )
        train_unet(out, recipe, parts, progress=follow(recipe.steps), **same)
    elif config.stage == "decoder" and (source := config.init or out / "pipeline").is_dir():
        save_pipeline(replace(load_parts(source), vae=vae), out / "pipeline")
    return out / "pipeline"


def check(out: Path, config: PretrainConfig) -> None:
    """Raises UserError if the result of an earlier stage is missing, or --init does not fit."""
    if config.stage in ("unet", "decoder") and config.init is None and not (out / "vae").is_dir():
        raise UserError(f"{out}/vae is missing; run --stage vae first, or --stage all.")
    if config.init is not None and not (config.init / "model_index.json").is_file():
        raise UserError(f"--init {config.init} is not a pipeline folder: it has no model_index.json.")
    if config.init is not None and config.stage == "vae":
        raise UserError(
            "--init keeps the checkpoint's autoencoder; use it with --stage unet, decoder or all."
        )


def recipe_of(config: PretrainConfig) -> Recipe:
    """The denoiser's recipe: the given settings over the released recipe's."""
    given: dict[str, Any] = {
        "steps": config.steps,
        "clips": config.clips,
        "image_steps": config.image_steps,
        "seed": config.seed,
    }
    if config.init is not None and config.image_steps is None:
        given["image_steps"] = 0  # trained weights already know single frames
    recipe = Recipe(**{key: value for key, value in given.items() if value is not None})
    # Trained weights do not need the simplest stages of the curriculum either.
    return replace(recipe, curriculum=recipe.curriculum[-1:]) if config.init is not None else recipe
