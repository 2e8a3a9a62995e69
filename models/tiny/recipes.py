"""The recipes of tiny checkpoints by name, and how a checkpoint is written and kept."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from safetensors.torch import save_model

from infra.errors import UserError
from infra.files import cache_folder

Recipe = TypeVar("Recipe", bound=Callable[..., Path])
VERSION = "3"  # raise it when a recipe changes: cached checkpoints have it in their name
RECIPES: dict[str, Callable[[Path], Path]] = {}  # by name: a family's, or one of its kinds of checkpoint


def recipe(name: str) -> Callable[[Recipe], Recipe]:
    """Decorator: register the function that writes `tiny-random:<name>`."""

    def register(write: Recipe) -> Recipe:
        RECIPES[name] = write
        return write

    return register


def tiny_checkpoint(family: str) -> Path:
    """The folder of `tiny-random:<family>`, written on first use, atomically because processes may race."""
    if family not in RECIPES:
        raise UserError(f"tiny-random:{family} does not exist; expected one of {', '.join(sorted(RECIPES))}.")
    folder = cache_folder() / f"tiny-random-{family}-v{VERSION}"
    if not (folder / "model_index.json").is_file():
        # The fork keeps the caller's random state: making a checkpoint must not change later draws.
        with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = RECIPES[family](Path(scratch) / "model")
            try:
                os.rename(made, folder)
            except OSError:
                shutil.rmtree(made)  # another process was first
    return folder


def fill_zero_layers(model: torch.nn.Module) -> None:
    """Give zero-initialised output layers random weights; otherwise most layers would have no effect."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)


def save(pipeline: Any, folder: Path, recommended: dict[str, Any]) -> Path:
    """Write the pipeline, and the settings that suit it as its recommended.yaml."""
    pipeline.save_pretrained(folder, safe_serialization=True)
    weights = folder / "text_encoder" / "model.safetensors"
    if not weights.exists():  # transformers writes them only on the first rank of a process group
        save_model(pipeline.text_encoder, str(weights), metadata={"format": "pt"})
    (folder / "recommended.yaml").write_text(yaml.safe_dump(recommended))
    return folder
