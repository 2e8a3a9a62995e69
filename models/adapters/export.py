"""Writes adapters for other tools: as files of their layout, or merged into the denoiser's weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save
from torch import Tensor

from infra.errors import InvalidInput
from infra.files import atomic_file
from models.adapters.file import Adapter, check_fits, with_sorted_header
from models.foundations.base import Foundation

Layout = Literal["diffusers", "comfyui"]


def export_files(
    foundation: Foundation,
    adapters: Iterable[Adapter],
    folder: Path,
    name: str,
    layout: Layout,
    scale: float = 1.0,
) -> list[Path]:
    """Write the sum of some adapters as a LoRA file of another tool, at alpha = rank.

    A model of several denoisers gets one file for each, `NAME_high_noise` and `NAME_low_noise`, without those that the
    adapters leave as they are. diffusers loads the second with `load_into_transformer_2=True`.

    Args:
        layout: diffusers: what `load_lora_weights` of the stock pipeline reads. comfyui: the node editor's.

    Raises:
        InvalidInput: an adapter does not fit, changes nothing, or the node editor's names are not known.
    """
    if layout == "comfyui" and not foundation.spec.comfyui:
        raise InvalidInput(
            f"the node editor's names for the layers of {foundation.name} ({foundation.family}) are not known; use "
            "--format diffusers.",
            code="invalid_format",
        )
    adapters = list(adapters)
    for adapter in adapters:
        check_fits(adapter, foundation, wide=True)
    written = []
    for part in foundation.denoisers:
        tensors = _summed(adapters, part)
        if not any(b.any() for _, b in tensors.values()):
            continue
        file = folder / f"{name}{'_' * bool(part)}{part.removesuffix('.')}.safetensors"
        keys: dict[str, Tensor] = {}
        for layer, (a, b) in tensors.items():
            if layout == "comfyui":
                ((own, _),) = foundation.spec.original_names(layer)
                key = f"diffusion_model.{own}"
            else:
                key = f"{foundation.adapter_key_prefix}{layer}"
            keys[f"{key}.lora_A.weight"] = a.contiguous()
            keys[f"{key}.lora_B.weight"] = (b * scale).contiguous()
        with atomic_file(file) as temporary:
            temporary.write_bytes(with_sorted_header(save(keys, metadata={"format": "pt"})))
        written.append(file)
    if not written:
        raise InvalidInput(
            "its adapters change nothing, so there is no file to write.", code="invalid_adapter"
        )
    return written


def _summed(adapters: Iterable[Adapter], part: str) -> dict[str, tuple[Tensor, Tensor]]:
    """The sum of adapters on one of the denoisers, by its own layer names: their A above, their B beside each other."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for adapter in adapters:
        for name, (a, b) in adapter.tensors.items():
            if name.startswith(part):
                layer = name.removeprefix(part)
                before = found.get(layer)
                found[layer] = (
                    (a, b)
                    if before is None
                    else (torch.cat([before[0], a]), torch.cat([before[1], b], dim=1))
                )
    return found


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
        check_fits(adapter, foundation, wide=True)
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
