"""The adapter file: one safetensors file that stock tools read, with all it needs to be judged before loading.

A folder holds `adapter_model.safetensors` and PEFT's `adapter_config.json`. Keys are PEFT's
(`<prefix><module>.lora_A.weight` [rank, in], `.lora_B.weight` [out, rank]) with the prefix under which the
class's stock loader expects them: `base_model.model.` where that is PEFT (`PeftModel.from_pretrained(pipeline.
unet, folder)`), `transformer.` where the pipeline has its own (`pipeline.load_lora_weights(folder)`).
lora_alpha equals the rank, so the multiplier is 1 as in the paper. Layers may have ranks of their own, as an adapter
has that changes whole layers (method `full`: A is the identity); PEFT reads them from rank_pattern and alpha_pattern.

Metadata (all strings, as safetensors wants): format, schema, method, path, rank, targets, foundation,
foundation_fingerprint, family, concept, captions, steps, config, data_sha256.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from infra.errors import UserError
from infra.files import atomic_file
from infra.objects import sha256_file
from models.foundation import Foundation
from models.lora_slots import LayerTensors
from models.routing import PATHS
from models.routing import Path as AdapterPath

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
SCHEMA = "1"
PREFIXES = ("base_model.model.", "transformer.", "unet.")
MAX_RANK = 1024  # but a wider layer may have its width as rank


@dataclass(frozen=True)
class Adapter:
    """One trained LoRA of one path: {module: (A [rank, in], B [out, rank])} and what is known about it."""

    path: AdapterPath
    rank: int  # the largest of its layers
    tensors: dict[str, tuple[Tensor, Tensor]]
    metadata: dict[str, str] = field(default_factory=dict)
    sha256: str = ""  # of the file it was read from

    @property
    def concept(self) -> str:
        return self.metadata.get("concept", "")

    @property
    def num_parameters(self) -> int:
        return sum(a.numel() + b.numel() for a, b in self.tensors.values())


def largest_rank(tensors: LayerTensors) -> int:
    """The rank of an adapter: the largest of its layers."""
    return max(a.shape[0] for a, _ in tensors.values())


def refuse(source: str, reason: str, code: str = "invalid_adapter") -> UserError:
    """The one shape of "this adapter may not load"."""
    return UserError(f"adapter {source}: {reason}", status=422, code=code)


def save_adapter(
    folder: Path, adapter: Adapter, foundation: Foundation, *, metadata: Mapping[str, object] | None = None
) -> Adapter:
    """Write the two files (each atomically) and return the adapter with its metadata completed and its hash.

    Args:
        metadata: more entries; what is not a string is written as JSON.
    """
    said = {**adapter.metadata, **(metadata or {})}
    said.update(
        format="pt",
        schema=SCHEMA,
        path=adapter.path,
        rank=adapter.rank,
        targets=sorted({name.split(".", 2)[-1] for name in adapter.tensors}),
        family=foundation.family,
        foundation=foundation.name,
        foundation_fingerprint=foundation.fingerprint,
    )
    said.setdefault("method", "motiondirector")
    text = {
        key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in said.items()
    }
    prefix = foundation.adapter_key_prefix
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in sorted(adapter.tensors.items()):
        tensors[f"{prefix}{name}.lora_A.weight"] = a.detach().cpu().contiguous()
        tensors[f"{prefix}{name}.lora_B.weight"] = b.detach().cpu().contiguous()
    # Module names are PEFT's regular expressions; "^" keeps one from matching the end of another.
    own = {f"^{name}": a.shape[0] for name, (a, _) in adapter.tensors.items() if a.shape[0] != adapter.rank}
    peft = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": foundation.source,
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
        partial.write_bytes(_ordered(save(tensors, metadata=text)))
        config.write_text(json.dumps(peft, indent=2, sort_keys=True) + "\n")
    return Adapter(adapter.path, adapter.rank, adapter.tensors, text, sha256_file(weights))


def read_adapter(path: Path, foundation: Foundation | None = None) -> Adapter:
    """Read and judge an adapter file (or a folder holding one). Nothing is ever unpickled.

    Checks: a real safetensors file; only LoRA keys, each A with its B; matching 2-D shapes; ranks in bounds;
    finite values; and, with a foundation: its fingerprint, every module one of its targets, the shapes of its
    layers.

    Raises:
        UserError (422; 404 when absent): with the file, what is wrong and what is expected.
    """
    file = path / WEIGHTS_FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"adapter {path}: no such file.", status=404, code="adapter_not_found")
    _check_header(file)
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
            raw = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (no iterator)
    except (SafetensorError, ValueError, OSError, RuntimeError) as error:
        raise refuse(
            file.name, f"not a whole safetensors file ({' '.join(str(error).split())[:120]})."
        ) from None
    tensors = _pair(file.name, raw)
    for name, (a, _) in tensors.items():
        most = max(MAX_RANK, a.shape[1])
        if not 1 <= a.shape[0] <= most:
            raise refuse(file.name, f"layer {name} has rank {a.shape[0]}, outside 1..{most}.")
    for name, pair in tensors.items():
        if not all(torch.isfinite(tensor).all() for tensor in pair):
            raise refuse(file.name, f"layer {name} has NaN or infinite values; train it again.")
    kind = metadata.get("path", "temporal")
    if kind not in PATHS:
        raise refuse(file.name, f"path is {kind!r}; expected spatial or temporal.")
    adapter = Adapter(kind, largest_rank(tensors), tensors, metadata, sha256_file(file))  # type: ignore[arg-type]
    if foundation is not None:
        check_fits(adapter, foundation, file.name)
    return adapter


def check_fits(adapter: Adapter, foundation: Foundation, source: str = "") -> None:
    """Raises UserError (422) unless the adapter was made for exactly this foundation and fits its layers."""
    source = source or adapter.concept
    theirs = adapter.metadata.get("foundation_fingerprint")
    if theirs != foundation.fingerprint:
        raise refuse(
            source,
            f"made for foundation {adapter.metadata.get('foundation', 'unknown')} ({(theirs or 'no fingerprint')[:12]}), "
            f"not for {foundation.name} ({foundation.fingerprint[:12]}); use that foundation or train again.",
            "foundation_mismatch",
        )
    known = set(foundation.targets[adapter.path])
    unknown = sorted(set(adapter.tensors) - known)
    if unknown:
        raise refuse(
            source,
            f"{len(unknown)} keys name no {adapter.path} layer of {foundation.name}: {unknown[0]}, ...",
        )
    missing = sorted(known - set(adapter.tensors))
    if missing:
        raise refuse(source, f"{len(missing)} {adapter.path} layers are missing: {missing[0]}, ...")
    for name, (a, b) in adapter.tensors.items():
        layer = foundation.denoiser.get_submodule(name)
        expected = (layer.in_features, layer.out_features)
        if (a.shape[1], b.shape[0]) != expected:
            raise refuse(
                source, f"layer {name} is {(a.shape[1], b.shape[0])} (in, out); expected {expected}."
            )


def adapter_from_slot(foundation: Foundation, path: AdapterPath, slot: int) -> Adapter:
    """The adapter that a bank's slot holds now (a copy, float32)."""
    assert foundation.bank is not None
    tensors = {name: (a.float(), b.float()) for name, (a, b) in foundation.bank.extract(path, slot).items()}
    return Adapter(path, largest_rank(tensors), tensors)


def _pair(source: str, raw: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in raw.items():
        half = {".lora_A.weight": "A", ".lora_B.weight": "B"}.get(key[-len(".lora_A.weight") :])
        if half is None:
            raise refuse(
                source, f"unknown key {key[:100]!r}; only ...lora_A.weight and ...lora_B.weight are expected."
            )
        name = key[: -len(".lora_A.weight")]
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        if tensor.ndim != 2 or not tensor.is_floating_point():
            raise refuse(
                source, f"{key[:100]} is {tensor.dtype} {list(tensor.shape)}; expected a matrix of floats."
            )
        halves.setdefault(name, {})[half] = tensor
    if not halves:
        raise refuse(source, "it is empty.")
    for name, pair in halves.items():
        if set(pair) != {"A", "B"}:
            raise refuse(source, f"layer {name} has only lora_{next(iter(pair))}; both A and B are expected.")
        if pair["A"].shape[0] != pair["B"].shape[1]:
            raise refuse(
                source,
                f"layer {name}: A {list(pair['A'].shape)} and B {list(pair['B'].shape)} do not share a rank.",
            )
    return {name: (pair["A"], pair["B"]) for name, pair in halves.items()}


def _check_header(file: Path) -> None:
    """A safetensors file starts with its header's length and a '{': says plainly what a pickle is."""
    with file.open("rb") as opened:
        head = opened.read(9)
    if head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise refuse(file.name, "it is a pickle, which is never opened here; save it as safetensors.")
    if len(head) < 9 or head[8:9] != b"{" or struct.unpack("<Q", head[:8])[0] > file.stat().st_size:
        raise refuse(file.name, "it is not a safetensors file.")


def _ordered(data: bytes) -> bytes:
    """A safetensors file with its header's keys sorted: the same adapter is the same bytes, and has the same hash."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]
