"""Adapters without training: of random values, which change what a model makes, or of ones."""

from __future__ import annotations

import torch

from models.adapters.file import Adapter
from models.foundations.base import Foundation
from models.lora.routing import LoraPath


def random_adapter(
    foundation: Foundation,
    path: LoraPath = "temporal",
    *,
    rank: int = 4,
    seed: int = 0,
    scale: float = 0.3,
    metadata: dict | None = None,
) -> Adapter:
    """An adapter with random A and B, normal with standard deviation `scale`."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in foundation.targets[path]:
        layer = foundation.denoiser.get_submodule(name)
        a = torch.randn(rank, layer.in_features, generator=generator) * scale
        b = torch.randn(layer.out_features, rank, generator=generator) * scale
        tensors[name] = (a, b)
    return Adapter(path, rank, tensors, metadata or {})


def plain_adapter(foundation: Foundation, path: LoraPath = "temporal", *, up: float = 1.0) -> Adapter:
    """An adapter of rank 2 with ones in A and `up` in B; 0 changes nothing."""
    tensors = {}
    for name in foundation.targets[path]:
        layer = foundation.denoiser.get_submodule(name)
        tensors[name] = (torch.ones(2, layer.in_features), torch.full((layer.out_features, 2), float(up)))
    return Adapter(path, 2, tensors)
