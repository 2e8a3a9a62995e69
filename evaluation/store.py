"""Keeps an evaluation's videos and adapters under hashes of everything that determines them, for reuse.

A folder (`--out`) holds videos/<key>.npz and adapters/<key>.safetensors. A key covers everything that
the value depends on, so nothing expires. An unreadable file counts as missing, with a warning, and is
made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from infra.files import atomic_file
from models.lora.routing import PATHS, LoraPath
from models.lora.slots import LayerTensors, with_identity

log = logging.getLogger(__name__)

Adapters = Mapping[LoraPath, LayerTensors]  # {path: {layer: (A [rank, in], B [out, rank])}}


def key_of(**facts: Any) -> str:
    """40 hex digits over plain facts, whatever their order."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:40]


def adapters_sha256(adapters: Adapters) -> str | None:
    """One hash over the values of a set of adapters; None for an empty set."""
    if not adapters:
        return None
    digest = hashlib.sha256()
    for path in sorted(adapters):
        for layer, pair in sorted(adapters[path].items()):
            for half, tensor in zip("AB", pair, strict=True):
                digest.update(f"{path} {layer} {half} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Store:
    """Videos and adapters by key, below a folder that is created on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def video(self, key: str) -> np.ndarray | None:
        """The frames [F, H, W, 3] uint8 under a key, or None."""
        path = self.folder / "videos" / f"{key}.npz"
        if not path.exists():
            return None
        try:
            with np.load(path) as stored:
                return stored["frames"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s is damaged (%s); generating this video again", path, error)
            return None

    def put_video(self, key: str, frames_FHWC: np.ndarray) -> None:
        """Store the exact frames, so that a resumed run measures the same as an uninterrupted one."""
        with (
            atomic_file(self.folder / "videos" / f"{key}.npz") as temporary,
            temporary.open("wb") as file,
        ):
            np.savez_compressed(file, frames=frames_FHWC)

    def adapters(self, key: str) -> dict[LoraPath, dict[str, tuple[Tensor, Tensor]]] | None:
        """The adapters under a key, or None."""
        path = self.folder / "adapters" / f"{key}.safetensors"
        if not path.exists():
            return None
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            log.warning("%s is damaged (%s); training this baseline again", path, error)
            return None
        found: dict[LoraPath, dict[str, tuple[Tensor, Tensor]]] = {}
        for kind in PATHS:
            start, end = len(f"{kind}:"), -len(":B")
            for name in sorted(
                n[start:end] for n in tensors if n.startswith(f"{kind}:") and n.endswith(":B")
            ):
                a, b = tensors.get(f"{kind}:{name}:A"), tensors[f"{kind}:{name}:B"]
                found.setdefault(kind, {})[name] = with_identity(b) if a is None else (a, b)
        return found

    def put_adapters(self, key: str, adapters: Adapters) -> None:
        """Store trained adapters in float32; for layers changed whole only B, since A is the identity."""
        tensors = {}
        for path, layers in adapters.items():
            for layer, (a, b) in layers.items():
                tensors[f"{path}:{layer}:B"] = b.detach().cpu().contiguous()
                if a.shape[0] != a.shape[1] or not torch.equal(a, torch.eye(len(a), dtype=a.dtype)):
                    tensors[f"{path}:{layer}:A"] = a.detach().cpu().contiguous()
        with atomic_file(self.folder / "adapters" / f"{key}.safetensors") as temporary:
            save_file(tensors, temporary)
