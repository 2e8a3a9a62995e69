"""What a foundation is, in numbers, for people. Needs no weights: `load_foundation(source, parts=())` is enough."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from models.foundations.base import Foundation
from models.lora.routing import PATHS, LoraPath


@dataclass(frozen=True)
class FoundationFacts:
    """A foundation's sizes, targets and interfaces."""

    name: str
    family: str
    title: str  # the models of its family
    pipeline: str  # diffusers' classes
    denoiser: str
    parameters: int  # of the denoiser
    frames: str  # which frame counts it makes
    multiples: tuple[int, int]  # of which height and width must be multiples
    default_size: str
    latent_shape: tuple[int, int, int, int]  # (C, f, h, w) at that size
    predicts: str
    schedulers: tuple[str, ...]  # its own comes first
    text_tokens: int
    targets: dict[LoraPath, int]  # the number of Linears that adapters change
    layers: dict[LoraPath, tuple[str, ...]]  # their names, each number as *
    adapter_parameters: dict[LoraPath, int]  # at rank 1
    loaded_by: str  # how the stock pipeline reads an adapter
    takes_image: bool  # its videos begin with a given image

    @property
    def same_layers(self) -> bool:
        """Whether both paths adapt the same layers (full 3D attention)."""
        return self.layers["spatial"] == self.layers["temporal"]


def facts_of(foundation: Foundation) -> FoundationFacts:
    """The facts about a foundation."""
    sizes, bucket, denoiser = foundation.sizes, foundation.defaults.bucket, foundation.denoiser
    ((_, one), *_) = foundation.denoisers.values()  # several are of one class
    return FoundationFacts(
        name=foundation.name,
        family=foundation.family,
        title=foundation.spec.title,
        pipeline=foundation.spec.pipeline_class,
        denoiser=type(one).__name__,
        parameters=sum(parameter.numel() for parameter in denoiser.parameters()),
        frames=frame_counts(foundation),
        multiples=sizes.multiples,
        default_size=str(bucket),
        latent_shape=foundation.latent_shape(bucket),
        predicts=foundation.noise.prediction_type,
        schedulers=foundation.scheduler_kinds(),
        text_tokens=foundation.text_limit.tokens,
        targets={path: len(foundation.targets[path]) for path in PATHS},
        layers={path: patterns(foundation.targets[path]) for path in PATHS},
        adapter_parameters={path: _rank_one(denoiser, foundation.targets[path]) for path in PATHS},
        loaded_by=_loader(foundation.pipeline, foundation.denoiser_name, one),
        takes_image=foundation.takes_image,
    )


def frame_counts(foundation: Foundation) -> str:
    """Which frame counts a foundation makes."""
    sizes = foundation.sizes
    step = sizes.frame_step or sizes.temporal_scale
    found = "any number" if step == 1 else f"multiples of {step} plus 1"
    return found if sizes.most_frames is None else f"{found}, at most {sizes.most_frames}"


def patterns(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names' ends behind the transformer block, each once: `attn1.to_q`."""
    return tuple(dict.fromkeys(re.split(r"blocks\.\d+\.", name)[-1] for name in names))


def _rank_one(denoiser: Any, names: tuple[str, ...]) -> int:
    layers = [denoiser.get_submodule(name) for name in names]
    return sum(layer.in_features + layer.out_features for layer in layers)


def _loader(pipeline: Any, component: str, denoiser: Any) -> str:
    if not hasattr(denoiser, "load_lora_adapter"):
        return "PeftModel.from_pretrained"
    return "load_lora_weights" if hasattr(pipeline, "load_lora_weights") else f"{component}.load_lora_adapter"
