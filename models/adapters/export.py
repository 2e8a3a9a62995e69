"""Write a denoiser with adapters merged into its weights, for tools without LoRA support."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path

import torch

from models.adapters.file import Adapter, check_fits
from models.foundations.base import Foundation


@torch.no_grad()
def export_merged(
    foundation: Foundation, adapters: Iterable[Adapter], folder: Path, scale: float = 1.0
) -> Path:
    """Save the denoiser with scale * B A of each adapter added to its target weights.

    The result loads with the class's stock `from_pretrained` and predicts as the base with the adapters does.
    A model of several denoisers becomes one folder for each, by the names of the pipeline. The resident foundation is
    not changed.
    """
    adapters = list(adapters)
    for adapter in adapters:
        check_fits(adapter, foundation)
    several = len(foundation.denoisers) > 1
    for part, (component, denoiser) in foundation.denoisers.items():
        merged = type(denoiser).from_config(denoiser.config).to(foundation.dtype)
        merged.load_state_dict(copy.copy(denoiser.state_dict()))
        for adapter in adapters:
            for name, (a, b) in adapter.tensors.items():
                if not name.startswith(part):
                    continue
                weight = merged.get_submodule(name.removeprefix(part)).weight
                weight.copy_(
                    (weight.float() + scale * (b.float() @ a.float()).to(weight.device)).to(weight.dtype)
                )
        place = folder / component if several else folder
        place.mkdir(parents=True, exist_ok=True)
        merged.save_pretrained(place, safe_serialization=True)
    return folder
