"""Tiny resident models and a registry with concepts of random weights for the serving tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from infra.registry import Registry, Version, open_registry
from models.adapter import Adapter, save_adapter
from models.foundation import Foundation
from models.load import load_foundation

FAMILIES = ("tiny-random:unet3d", "tiny-random:wan")
Publish = Callable[..., Version]


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def unet3d() -> Foundation:
    return load_foundation("tiny-random:unet3d")


@pytest.fixture(scope="session", params=FAMILIES)
def foundation(request: pytest.FixtureRequest) -> Foundation:
    return load_foundation(request.param)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path / "registry")


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


@pytest.fixture
def publish(registry: Registry, tmp_path: Path) -> Publish:
    """publish(foundation, "orbit", seed=1): a version of random weights."""

    def make(foundation: Foundation, concept: str, **kind) -> Version:
        folder = tmp_path / "made" / f"{concept}-{len(list(tmp_path.glob('made/*')))}"
        saved = save_adapter(folder, random_adapter(foundation, **kind), foundation)
        return registry.publish(concept, folder, metadata=dict(saved.metadata))

    return make
