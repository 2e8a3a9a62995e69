"""Adapters of random weights, and what the fixtures are."""

from __future__ import annotations

from collections.abc import Callable

import torch

from infra.registry import Version
from models.adapter import Adapter
from models.foundation import Foundation

Publish = Callable[..., Version]  # publish(foundation, "orbit", path=..., rank=..., seed=...)


def random_adapter(foundation: Foundation, *, path="temporal", rank=4, seed=0, scale=0.3) -> Adapter:
    """An adapter that visibly changes the model's answer: both halves random."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in foundation.targets[path]:
        layer = foundation.denoiser.get_submodule(name)
        a = torch.randn(rank, layer.in_features, generator=generator) * scale
        b = torch.randn(layer.out_features, rank, generator=generator) * scale
        tensors[name] = (a, b)
    return Adapter(path, rank, tensors)
