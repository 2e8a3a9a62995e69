"""Adapter files of other tools: which of the denoiser's layers each key is about, and how much it adds.

A tool is told by its keys. Its names are looked up in a table that is made from the denoiser's own layers, so a key
either names a layer or is reported.

| layout | keys | factor |
| --- | --- | --- |
| diffusers, PEFT | `transformer.<layer>.lora_A.weight`, or without a prefix | alpha / rank where a file says alpha |
| ComfyUI, ai-toolkit, diffusion-pipe | `diffusion_model.<original>.lora_A.weight` | the same; diffusion-pipe has alpha = rank |
| musubi-tuner, kohya; Wan-Fun | `lora_unet_<original, with _>.lora_down.weight`, `lora_unet__` | alpha / rank |
| DiffSynth | `<original>.lora_A.default.weight` | 1: the caller's own scale |
| AnimateDiff's motion LoRAs | `<original>.down.weight`, also as diffusers' script converts them | 1 |

<original> is a layer's name in the authors' code (`FamilySpec.original_names`), which may hold several of diffusers'
layers in one matrix; A is then shared and B is cut by rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from infra.errors import InvalidInput, NotFound
from models.adapters.config import HEADER_KEY, PREFIXES, header_config, read_config, refuse, scalings
from models.adapters.file import read_tensors
from models.foundations.base import Foundation
from models.lora.slots import LayerTensors

# By the longest prefix first: `lora_unet__` is Wan-Fun's.
LAYOUTS = {
    "diffusion_model.": "ComfyUI",
    "lora_unet__": "Wan-Fun",
    "lora_unet_": "musubi-tuner",
    "lora_transformer_": "kohya",
    **dict.fromkeys(PREFIXES, "diffusers"),
}
HALVES = {
    "lora_A.weight": "A",
    "lora_B.weight": "B",
    "lora_A.default.weight": "A",
    "lora_B.default.weight": "B",
    "lora_down.weight": "A",
    "lora_up.weight": "B",
    "down.weight": "A",
    "up.weight": "B",
    "alpha": "alpha",
}
KEY = re.compile(rf"(.+?)\.({'|'.join(map(re.escape, HALVES))})")


@dataclass(frozen=True)
class Part:
    """A layer of the denoiser behind a name: all of it, or some rows of a matrix that holds several."""

    layer: str
    rows: slice


@dataclass(frozen=True)
class Foreign:
    """What a file of another tool says about a denoiser."""

    layout: str
    tensors: LayerTensors  # by the denoiser's layer names; factors are folded into B
    unmatched: tuple[str, ...]  # keys that name no layer, or change one in a way that an adapter here cannot


def read_foreign(file: Path, foundation: Foundation, part: str = "") -> Foreign:
    """Read an adapter of any known layout. Nothing is ever unpickled.

    Args:
        part: the denoiser that the file is for, of a model that has several (`Foundation.denoisers`).

    Raises:
        NotFound, InvalidInput: not a safetensors file, none of its keys names a layer, A without B, shapes that do not
            fit, NaN, a DoRA, or settings that a LoRA here cannot express.
    """
    if not file.is_file():
        raise NotFound(f"adapter {file}: no such file.", code="adapter_not_found")
    metadata, raw = read_tensors(file)
    if any("dora_scale" in key or "lora_magnitude_vector" in key for key in raw):
        raise refuse(file.name, "it is a DoRA, which also scales the base's weights; train it without DoRA.")
    layout, halves, unmatched = _by_name(file.name, raw)
    table = names_of(foundation, part)
    known = {name: pair for name, pair in halves.items() if name in table}
    unmatched += [key for name, pair in halves.items() if name not in table for key, _ in pair.values()]
    if not known:
        raise refuse(
            file.name,
            f"none of its {len(raw)} keys names a layer of {foundation.name}, such as {next(iter(raw), 'none')[:100]!r}; is it "
            "an adapter of another model?",
        )
    factors = _factors(file, known, metadata)
    tensors: dict[str, tuple[Tensor, Tensor]] = {}
    for name, pair in known.items():
        tensors.update(_cut(file.name, name, pair, table[name], factors[name], foundation, part))
    return Foreign(layout, tensors, tuple(sorted(unmatched)))


def names_of(foundation: Foundation, part: str = "") -> dict[str, list[Part]]:
    """Every name that a known tool gives to layers that adapters may change, without a prefix, and the layers behind it."""
    denoiser = foundation.denoisers[part][1]
    allowed = {*foundation.more_targets, *(name for of in foundation.trained_targets.values() for name in of)}
    table: dict[str, list[Part]] = {}
    fused: dict[str, dict[int, tuple[str, int]]] = {}
    for layer, module in denoiser.named_modules():
        if not isinstance(module, nn.Linear) or part + layer not in allowed:
            continue
        whole = [Part(part + layer, slice(0, module.out_features))]
        for name in (layer, layer.replace(".", "_")):
            table.setdefault(name, whole)
        for original, number in foundation.spec.original_names(layer):
            fused.setdefault(original, {})[number] = (part + layer, module.out_features)
    for original, of in fused.items():
        parts, start = [], 0
        for _, (layer, rows) in sorted(of.items()):
            parts.append(Part(layer, slice(start, start + rows)))
            start += rows
        for name in (original, original.replace(".", "_")):
            table.setdefault(name, parts)
    return table


def _by_name(
    source: str, raw: Mapping[str, Tensor]
) -> tuple[str, dict[str, dict[str, tuple[str, Tensor]]], list[str]]:
    """The layout, {name: {half: (key, tensor)}} without prefixes, and the keys that belong to no layer."""
    halves: dict[str, dict[str, tuple[str, Tensor]]] = {}
    unmatched, layouts = [], set()
    for key, tensor in raw.items():
        prefix = next((one for one in LAYOUTS if key.startswith(one)), "")
        found = KEY.fullmatch(key.removeprefix(prefix))
        if found is None:
            unmatched.append(key)
            continue
        name, suffix = found.groups()
        layouts.add(LAYOUTS.get(prefix) or ("DiffSynth" if ".default." in suffix else "no prefix"))
        half = HALVES[suffix]
        if half in halves.setdefault(name, {}):
            raise refuse(source, f"{key[:100]} and {halves[name][half][0][:100]} are about the same matrix.")
        halves[name][half] = (key, tensor)
    return " and ".join(sorted(layouts)) or "unknown", halves, unmatched


def _factors(
    file: Path, known: Mapping[str, Mapping[str, tuple[str, Tensor]]], metadata: Mapping[str, str]
) -> dict[str, float]:
    """The factor of each name's B A: alpha / rank of its tensor, of the header, or of an adapter_config.json; else 1."""
    for name, pair in known.items():
        if not {"A", "B"} <= set(pair):
            raise refuse(file.name, f"{name[:100]} has only {' and '.join(sorted(pair))}; expected A and B.")
    ranks = {name: pair["A"][1].shape[0] for name, pair in known.items()}
    alphas = {name: _number(file.name, *pair["alpha"]) for name, pair in known.items() if "alpha" in pair}
    if alphas:
        return {name: alphas.get(name, rank) / rank for name, rank in ranks.items()}
    if (config := header_config(file.name, metadata)) is not None:
        return scalings(file.name, config, ranks, f"header ({HEADER_KEY})")
    if (config := read_config(file.parent)) is not None:
        # Its targets may have the tool's own names: only how much is added counts here.
        return scalings(file.name, {**config, "target_modules": None}, ranks)
    return dict.fromkeys(known, 1.0)


def _number(source: str, key: str, tensor: Tensor) -> float:
    if tensor.numel() != 1 or not torch.isfinite(tensor).all():
        raise refuse(source, f"{key[:100]} is {list(tensor.shape)}; expected one finite number.")
    return float(tensor)


def _cut(
    source: str,
    name: str,
    pair: Mapping[str, tuple[str, Tensor]],
    parts: list[Part],
    factor: float,
    foundation: Foundation,
    part: str,
) -> dict[str, tuple[Tensor, Tensor]]:
    """The tensors of each layer behind a name."""
    (_, a), (_, b) = pair["A"], pair["B"]
    denoiser: Any = foundation.denoisers[part][1]
    width = denoiser.get_submodule(parts[0].layer.removeprefix(part)).in_features
    expected = (width, parts[-1].rows.stop)
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or (a.shape[1], b.shape[0]) != expected:
        raise refuse(
            source,
            f"{name[:100]} has A {list(a.shape)} and B {list(b.shape)}; expected {expected[0]} inputs and {expected[1]} outputs of "
            f"{foundation.name}, and one rank. Is it of another size of the model?",
        )
    a, b = a.float(), b.float() * factor
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise refuse(source, f"{name[:100]} has NaN or infinite values.")
    return {one.layer: (a.clone(), b[one.rows].clone()) for one in parts}


def wrong_keys(file: Path, unmatched: tuple[str, ...]) -> InvalidInput:
    """The error for a file that holds more than an adapter here can express."""
    shown = ", ".join(key[:80] for key in unmatched[:5]) + (", ..." if len(unmatched) > 5 else "")
    return refuse(  # type: ignore[return-value]
        file.name,
        f"{len(unmatched)} of its keys name no layer of the model or change it in another way than a LoRA: {shown}; give "
        "--partial to import the rest without them.",
        "unmatched_keys",
    )
