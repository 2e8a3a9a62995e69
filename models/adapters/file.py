"""The adapter file: a safetensors file that stock tools read and that can be validated before it is loaded.

A folder holds `adapter_model.safetensors` and PEFT's `adapter_config.json`. Keys are PEFT's
(`<prefix><module>.lora_A.weight` [rank, in], `.lora_B.weight` [out, rank]). The prefix is the one that
the stock loader expects: `base_model.model.` for PEFT (`PeftModel.from_pretrained(pipeline.unet,
folder)`), `transformer.` for pipelines with a loader (`pipeline.load_lora_weights(folder)`). lora_alpha
equals the rank, so the multiplier is 1 as in the paper. Layers may have different ranks. Adapters that
change whole layers do (method `full`: A is the identity); PEFT reads these from rank_pattern and
alpha_pattern.

Adapters of other tools may have another multiplier (`models/adapters/config.py`). Reading folds it into
B, so an `Adapter` in memory always adds B A. Settings that a LoRA here cannot express are refused.

Metadata (all strings, as safetensors requires): format, schema, method, path, rank, targets, foundation,
foundation_fingerprint, family, concept, captions, steps, config, data_sha256.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from infra.errors import NotFound
from infra.files import atomic_file
from infra.storage.objects import sha256_file
from models.adapters.config import (
    CONFIG_FILE,
    HEADER_KEY,
    PREFIXES,
    header_config,
    is_plain,
    read_config,
    refuse,
    scalings,
)
from models.foundations.base import Foundation
from models.lora.routing import PATHS, LoraPath
from models.lora.slots import LayerTensors

WEIGHTS_FILE = "adapter_model.safetensors"
SCHEMA = "1"
NO_FOUNDATION = (
    "its file does not say which foundation it was made for; publish it with `motiondirector concepts publish FOLDER "
    "--concept NAME --foundation MODEL`, which checks its layers against that model and records the model."
)
MAX_RANK = 1024  # a layer wider than this may use its width as rank


@dataclass(frozen=True)
class Adapter:
    """One trained LoRA of one path, {module: (A [rank, in], B [out, rank])}, and its metadata."""

    path: LoraPath
    rank: int  # the largest rank of its layers
    tensors: dict[str, tuple[Tensor, Tensor]]
    metadata: dict[str, str] = field(default_factory=dict)
    sha256: str = ""  # of the file that the adapter was read from
    canonical: bool = True  # the file is as `save_adapter` writes it: no settings were folded in

    @property
    def concept(self) -> str:
        return self.metadata.get("concept", "")


def largest_rank(tensors: LayerTensors) -> int:
    """The rank of an adapter: the largest rank of its layers."""
    return max(a.shape[0] for a, _ in tensors.values())


def save_adapter(
    folder: Path, adapter: Adapter, foundation: Foundation, *, metadata: Mapping[str, object] | None = None
) -> Adapter:
    """Write the two files (each atomically) and return the adapter with complete metadata and its hash.

    Args:
        metadata: additional entries; values that are not strings are written as JSON.
    """
    said = {**adapter.metadata, **(metadata or {})}
    said.update(
        format="pt",
        schema=SCHEMA,
        path=adapter.path,
        rank=adapter.rank,
        targets=sorted({_short(name, foundation) for name in adapter.tensors}),
        family=foundation.family,
        foundation=foundation.name,
        foundation_fingerprint=foundation.fingerprint,
    )
    said.setdefault("method", "motiondirector")
    text = {
        key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in said.items()
    }
    return _write(folder, adapter, text, foundation.adapter_key_prefix, foundation.source)


def _short(name: str, foundation: Foundation) -> str:
    """A layer's name without its block."""
    for part in foundation.denoisers:
        name = name.removeprefix(part)
    return name.split(".", 2)[-1]


def rewrite(folder: Path, to: Path) -> Adapter:
    """Write a folder's adapter in the form of `save_adapter`, with its settings folded in.

    The weights file then needs no adapter_config.json to be read correctly. Raises InvalidInput as
    `read_adapter` does.
    """
    adapter = read_adapter(folder)
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as opened:
        key = next(iter(opened.keys()))
    prefix = next((prefix for prefix in PREFIXES if key.startswith(prefix)), PREFIXES[0])
    text = {name: value for name, value in adapter.metadata.items() if name != HEADER_KEY}
    source = (read_config(folder) or {}).get("base_model_name_or_path")
    return _write(to, adapter, text, prefix, source)


def _write(
    folder: Path, adapter: Adapter, metadata: dict[str, str], prefix: str, source: str | None
) -> Adapter:
    """Write the two files, each atomically, and return the adapter as written.

    Args:
        prefix: prefix of the keys.
        source: the foundation's folder or hub id.
    """
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in sorted(adapter.tensors.items()):
        tensors[f"{prefix}{name}.lora_A.weight"] = a.detach().cpu().contiguous()
        tensors[f"{prefix}{name}.lora_B.weight"] = b.detach().cpu().contiguous()
    # PEFT treats module names as regular expressions; "^" prevents a match with the end of another name.
    own = {f"^{name}": a.shape[0] for name, (a, _) in adapter.tensors.items() if a.shape[0] != adapter.rank}
    peft = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": source,
        "r": adapter.rank,
        "lora_alpha": adapter.rank,
        "rank_pattern": own,
        "alpha_pattern": own,
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
        "target_modules": sorted(adapter.tensors),
    }
    weights = folder / WEIGHTS_FILE
    with (
        atomic_file(weights) as partial,
        atomic_file(folder / CONFIG_FILE) as config,
    ):  # the weights appear last
        partial.write_bytes(with_sorted_header(save(tensors, metadata=metadata)))
        config.write_text(json.dumps(peft, indent=2, sort_keys=True) + "\n")
    return Adapter(adapter.path, adapter.rank, adapter.tensors, metadata, sha256_file(weights))


def read_tensors(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file. Raises InvalidInput if it is none, or not complete."""
    check_header(file)
    try:
        with safe_open(file, framework="pt") as opened:
            return dict(opened.metadata() or {}), {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError, RuntimeError) as error:
        raise refuse(
            file.name, f"it is not a complete safetensors file ({' '.join(str(error).split())[:120]})."
        ) from None


def read_adapter(
    path: Path, foundation: Foundation | None = None, *, config: Mapping[str, Any] | None = None
) -> Adapter:
    """Read and validate an adapter file, or a folder with one. Nothing is ever unpickled.

    Checks: a real safetensors file; only LoRA keys, each A with its B; matching 2-D shapes; ranks in
    bounds; finite values; settings that can be folded in. With a foundation also: the fingerprint, that
    every module is a target, and the shapes of the layers.

    Args:
        config: PEFT's settings of a file whose adapter_config.json is elsewhere. For a folder, its own
            is read. A file without settings adds B A.

    Raises:
        NotFound, or InvalidInput: names the file, what is wrong and what is expected.
    """
    file = path / WEIGHTS_FILE if path.is_dir() else path
    if not file.is_file():
        raise NotFound(f"adapter {path}: no such file.", code="adapter_not_found")
    metadata, raw = read_tensors(file)
    tensors, alphas = _pair(file.name, raw)
    for name, (a, _) in tensors.items():
        most = max(MAX_RANK, a.shape[1])
        if not 1 <= a.shape[0] <= most:
            raise refuse(file.name, f"layer {name} has rank {a.shape[0]}, outside 1..{most}.")
    for name, pair in tensors.items():
        if not all(torch.isfinite(tensor).all() for tensor in pair):
            raise refuse(file.name, f"layer {name} has NaN or infinite values; train it again.")
    kind = metadata.get("path", "temporal")
    if kind not in PATHS:
        raise refuse(file.name, f"its path is {kind!r}; expected spatial or temporal.")
    if config is None and path.is_dir():
        config = read_config(path)
    folded = _fold(file.name, tensors, alphas, config, header_config(file.name, metadata))
    canonical = folded is tensors
    adapter = Adapter(kind, largest_rank(folded), folded, metadata, sha256_file(file), canonical)  # type: ignore[arg-type]
    if foundation is not None:
        check_fits(adapter, foundation, file.name)
    return adapter


def check_fits(adapter: Adapter, foundation: Foundation, source: str = "", *, wide: bool = False) -> None:
    """Raise InvalidInput unless the adapter was made for exactly this foundation and fits its layers.

    Args:
        wide: it may also change layers that a bank has only if the foundation is widened (`Foundation.widen`).
    """
    source = source or adapter.concept
    theirs = adapter.metadata.get("foundation_fingerprint")
    if not theirs:
        raise refuse(source, NO_FOUNDATION, "foundation_unknown")
    if theirs != foundation.fingerprint:
        raise refuse(
            source,
            f"it was made for foundation {adapter.metadata.get('foundation', 'unknown')} ({theirs[:12]}), "
            f"not for {foundation.name} ({foundation.fingerprint[:12]}); use that foundation or train again.",
            "foundation_mismatch",
        )
    known = {*foundation.targets[adapter.path], *(foundation.more_targets if wide else ())}
    unknown = sorted(set(adapter.tensors) - known)
    if unknown and set(unknown) <= set(foundation.more_targets):
        raise refuse(
            source,
            f"it changes {len(unknown)} layers that adapters trained here leave alone, such as {unknown[0]}; load the model with "
            "adapter_layers all (--adapter-layers all).",
            "adapter_layers",
        )
    if unknown:
        raise refuse(
            source,
            f"{len(unknown)} of its layers are not {adapter.path} layers of {foundation.name}: {unknown[0]}, ...",
        )
    missing = sorted(set(foundation.trained_targets[adapter.path]) - set(adapter.tensors))
    if missing:
        raise refuse(source, f"it lacks {len(missing)} {adapter.path} layers: {missing[0]}, ...")
    for name, (a, b) in adapter.tensors.items():
        layer = foundation.denoiser.get_submodule(name)
        expected = (layer.in_features, layer.out_features)
        if (a.shape[1], b.shape[0]) != expected:
            raise refuse(
                source, f"layer {name} is {(a.shape[1], b.shape[0])} (in, out); expected {expected}."
            )


def adopt(
    adapter: Adapter, foundation: Foundation, source: str = "", prefer: LoraPath = "temporal"
) -> dict[LoraPath, Adapter]:
    """Assign an adapter without a foundation (from stock PEFT) to this one; return one adapter per path.

    Layers are sorted by path, because an adapter of all attention layers changes spatial and temporal
    ones. Layers that the adapter leaves unchanged become zeros, so each result is complete. A path of which
    it changes no layer gets no adapter. A layer of both paths (3D attention) goes to the preferred one.
    Raises InvalidInput for a layer that the foundation does not have, or that has another shape.
    """
    known = {path: set(foundation.targets[path]) for path in sorted(PATHS, key=lambda path: path != prefer)}
    known["temporal"] |= set(foundation.more_targets)
    found: dict[LoraPath, dict[str, tuple[Tensor, Tensor]]] = {}
    for name, pair in adapter.tensors.items():
        path = next((path for path in known if name in known[path]), None)
        if path is None:
            raise refuse(
                source,
                f"adapters of {foundation.name} cannot change layer {name}; expected attention and feed-forward Linears "
                f"such as {foundation.targets['temporal'][0]}. Was it made for another model?",
            )
        found.setdefault(path, {})[name] = pair
    adopted = {}
    for path, tensors in sorted(found.items(), reverse=True):  # the temporal one first
        for name in foundation.trained_targets[path]:
            layer: Any = foundation.denoiser.get_submodule(name)
            if name not in tensors:
                rank = adapter.rank
                tensors[name] = (torch.zeros(rank, layer.in_features), torch.zeros(layer.out_features, rank))
        said = {
            "method": "peft",
            **adapter.metadata,
            "path": path,
            "foundation": foundation.name,
            "foundation_fingerprint": foundation.fingerprint,
        }
        said.pop(HEADER_KEY, None)
        adopted[path] = Adapter(path, largest_rank(tensors), tensors, said, canonical=False)
        check_fits(adopted[path], foundation, source, wide=True)
    return adopted


def _fold(
    source: str,
    tensors: dict[str, tuple[Tensor, Tensor]],
    alphas: Mapping[str, float],
    config: Mapping[str, Any] | None,
    header: Mapping[str, Any] | None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Fold each layer's multiplier into B; return the same object when there is nothing to fold.

    Computes in float32 or wider: in half precision, a factor that is not a power of two would add a
    rounding error.
    """
    ranks = {name: a.shape[0] for name, (a, _) in tensors.items()}
    said = [
        (what, scalings(source, settings, ranks, what))
        for what, settings in ((CONFIG_FILE, config), (f"header ({HEADER_KEY})", header))
        if settings is not None
    ]
    if alphas:
        said.append(("alpha tensors", {name: alphas.get(name, rank) / rank for name, rank in ranks.items()}))
    if not said:
        return tensors
    what, factors = said[0]
    for other, theirs in said[1:]:
        for name, factor in factors.items():
            if not math.isclose(factor, theirs[name], rel_tol=1e-6):
                raise refuse(
                    source,
                    f"its {what} multiplies layer {name} by {factor:g}, but its {other} by {theirs[name]:g}; "
                    "remove the one that is wrong.",
                )
    if header is None and not alphas and (config is None or is_plain(config)):
        return tensors
    folded = {}
    for name, (a, b) in tensors.items():
        if factors[name] != 1.0:
            b = b.to(torch.promote_types(b.dtype, torch.float32)) * factors[name]
            if not torch.isfinite(b).all():
                raise refuse(source, f"layer {name} times {factors[name]:g} (its {what}) is not finite.")
        folded[name] = (a, b)
    return folded


def _pair(source: str, raw: dict[str, Tensor]) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, float]]:
    """Pair each layer's A with its B, and collect the alphas stored as tensors (`<layer>.alpha`)."""
    halves: dict[str, dict[str, Tensor]] = {}
    alphas: dict[str, float] = {}
    for key, tensor in raw.items():
        if key.endswith(".alpha"):
            if tensor.numel() != 1 or not torch.isfinite(tensor).all():
                raise refuse(source, f"{key[:100]} is {list(tensor.shape)}; expected one finite number.")
            alphas[_module(key.removesuffix(".alpha"))] = float(tensor)
            continue
        if "lora_magnitude_vector" in key:
            raise refuse(
                source,
                "it is a DoRA, which also scales the base's weights; merge it into the model or train it without DoRA.",
            )
        half = {".lora_A.weight": "A", ".lora_B.weight": "B"}.get(key[-len(".lora_A.weight") :])
        if half is None:
            raise refuse(
                source, f"unknown key {key[:100]!r}; expected only ...lora_A.weight and ...lora_B.weight."
            )
        name = _module(key[: -len(".lora_A.weight")])
        if tensor.ndim != 2 or not tensor.is_floating_point():
            raise refuse(
                source, f"{key[:100]} is {tensor.dtype} {list(tensor.shape)}; expected a matrix of floats."
            )
        halves.setdefault(name, {})[half] = tensor
    if not halves:
        raise refuse(source, "it holds no tensors.")
    for name, pair in halves.items():
        if set(pair) != {"A", "B"}:
            raise refuse(
                source, f"layer {name} has only lora_{next(iter(pair))}; expected lora_A and lora_B."
            )
        if pair["A"].shape[0] != pair["B"].shape[1]:
            raise refuse(
                source,
                f"layer {name}: A {list(pair['A'].shape)} and B {list(pair['B'].shape)} do not share a rank.",
            )
    for name in alphas.keys() - halves.keys():
        raise refuse(source, f"layer {name} has an alpha but no lora_A or lora_B.")
    return {name: (pair["A"], pair["B"]) for name, pair in halves.items()}, alphas


def _module(name: str) -> str:
    """A layer's name without its loader's prefix."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def check_header(file: Path) -> None:
    """Raise InvalidInput unless the file starts with a safetensors header; name a pickle as such.

    A safetensors file starts with its header's length and a '{'.
    """
    with file.open("rb") as opened:
        head = opened.read(9)
    if head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise refuse(file.name, "it is a pickle file, which is never loaded; save it as safetensors.")
    if len(head) < 9 or head[8:9] != b"{" or struct.unpack("<Q", head[:8])[0] > file.stat().st_size:
        raise refuse(file.name, "it is not a safetensors file.")


def with_sorted_header(data: bytes) -> bytes:
    """A safetensors file with its header's keys sorted: the same content always has the same bytes and hash."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]
