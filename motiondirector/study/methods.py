"""The methods of the study: a name, and the training settings that make it. One more is one more line of METHODS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.routing import Path

OURS = "dual"
BASE = "base"


@dataclass(frozen=True)
class Method:
    """How one row of the tables comes about.

    Args:
        title: for tables.
        settings: over those of the study; with `method`, TrainConfig's name of the loop that it trains by. None: nothing is trained.
        paths: of the adapters that generate; None takes all that the training gives.
        trained_as: the method whose training it shares: it then has no settings of its own.
        seeds: the most training seeds; None takes the study's.
    """

    title: str
    settings: Mapping[str, Any] | None = field(default_factory=dict)
    paths: tuple[Path, ...] | None = None
    trained_as: str | None = None
    seeds: int | None = None


METHODS: dict[str, Method] = {
    BASE: Method("base model", None),
    "coupled": Method("coupled LoRA, both adapters", {"method": "coupled"}),
    "coupled-temporal": Method(
        "coupled LoRA, its temporal adapter alone", paths=("temporal",), trained_as="coupled"
    ),
    "full": Method("temporal layers fine-tuned", {"method": "full"}, seeds=3),
    # Both as published, but for what belongs to a foundation: its learning rate, the number of steps and the rank.
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
    OURS: Method("ours", {"method": "dual"}),
}


def training_of(name: str) -> str:
    """The method whose training gives this one's adapters."""
    return METHODS[name].trained_as or name


def training_settings(name: str) -> Mapping[str, Any] | None:
    """What a method's training sets over the study's settings; None where nothing is trained."""
    return METHODS[training_of(name)].settings
