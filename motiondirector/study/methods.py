"""The methods of the study: names and training settings. To add a method, add a line to METHODS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.lora.routing import LoraPath

OURS = "dual"
BASE = "base"


@dataclass(frozen=True)
class Method:
    """How the videos of one row of the tables are made.

    Args:
        title: for tables.
        settings: override the study's; `method` is TrainConfig's. None: nothing is trained.
        paths: of the adapters used in generation; None: all that were trained.
        trained_as: the method whose training it shares; it then has no settings.
        seeds: largest number of training seeds; None: the study's.
    """

    title: str
    settings: Mapping[str, Any] | None = field(default_factory=dict)
    paths: tuple[LoraPath, ...] | None = None
    trained_as: str | None = None
    seeds: int | None = None


METHODS: dict[str, Method] = {
    BASE: Method("base model", None),
    "coupled": Method("coupled LoRA, both adapters", {"method": "coupled"}),
    "coupled-temporal": Method(
        "coupled LoRA, its temporal adapter alone", paths=("temporal",), trained_as="coupled"
    ),
    "full": Method("temporal layers fine-tuned", {"method": "full"}, seeds=3),
    # Both as published, except for the foundation's learning rate, number of steps and rank.
    "motiondirector": Method("the paper's own setting", {"method": "motiondirector"}),
    "no-debias": Method("dual path, no debiasing", {"method": "motiondirector", "beta": 0.0}),
    "debiased": Method(
        "ours, with the paper's debiased loss",
        {"method": "dual", "beta": 1.0, "appearance_preservation": 0.0},
        seeds=3,
    ),
    "plain": Method(
        "ours, not debiased", {"method": "dual", "beta": 0.0, "appearance_preservation": 0.0}, seeds=3
    ),
    "no-generated": Method(
        "ours, without generated references", {"method": "dual", "generated_references": 0}, seeds=3
    ),
    OURS: Method("ours", {"method": "dual"}),
}


def training_of(name: str) -> str:
    """The method whose training makes this one's adapters."""
    return METHODS[name].trained_as or name


def training_settings(name: str) -> Mapping[str, Any] | None:
    """Settings of a method's training that override the study's; None if nothing is trained."""
    return METHODS[training_of(name)].settings
