"""How long a motion is learned, as three choices instead of settings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from training.recommended import resolve

SHORTER, LONGER = 0.5, 2.0  # of the recommended steps


@dataclass(frozen=True)
class Preset:
    """One choice.

    Args:
        hyperparameters: what a training's request gives.
        seconds: that it should take; None: nothing was measured.
    """

    name: str
    about: str
    hyperparameters: dict[str, Any]
    steps: int
    seconds: float | None


def presets(
    recommended: Mapping[str, Any], clips: int, most_steps: int, seconds_per_step: float | None
) -> list[Preset]:
    """The choices for a number of clips, shortest first. Those beyond the server's most steps become one.

    Args:
        recommended: the content of the foundation's `recommended.yaml`.
        seconds_per_step: as measured; None: not measured.
    """
    found: list[Preset] = []
    for name, about, settings, steps in choices(resolve({}, dict(recommended), clips)):
        if found and found[-1].steps >= min(steps, most_steps):
            continue
        if steps > most_steps:
            settings, steps = {**settings, "steps": most_steps}, most_steps
        seconds = None if seconds_per_step is None else steps * seconds_per_step
        found.append(Preset(name, about, settings, steps, seconds))
    return found


def choices(usual: Any) -> Iterator[tuple[str, str, dict[str, Any], int]]:
    """Name, sentence, hyperparameters and steps of each choice, around the usual settings."""
    short = {"steps": max(1, math.ceil(SHORTER * usual.steps))}
    # In a short training the steps are worth more on the clips than on videos that it makes itself.
    alone = {"generated_references": 0} if usual.generated_references else {}
    yield "quick", "A first look at the motion.", {**short, **alone}, short["steps"]
    yield "balanced", "What the model's makers recommend.", {}, usual.steps
    longer = {"steps": math.ceil(LONGER * usual.steps)}
    yield "best", "Learns twice as long, for motions that are hard to follow.", longer, longer["steps"]
