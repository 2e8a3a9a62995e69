"""The interface of all metrics of generated videos.

A metric takes a list of `Case`s (generated videos with everything known about their target). It gives
one number per case, or None if it does not apply or cannot be measured; the score is their mean.
Metrics of a whole set (diversity) give one number per group that they compare, and say so. A
`Comparison` also takes the base model's videos of the same prompts and seeds.

Shapes: F frames, H and W pixels, C = 3 colours; videos are uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True)
class Reference:
    """A clip that the motion was learned from."""

    video_FHWC: np.ndarray
    caption: str


@dataclass(frozen=True)
class Case:
    """One generated video and what it is compared with."""

    video_FHWC: np.ndarray
    prompt: str
    seed: int
    references: tuple[Reference, ...] = ()


@dataclass(frozen=True)
class Score:
    """A metric's result: a value per case or group (None: not measurable), and their mean (or None)."""

    metric: str
    values: tuple[float | None, ...]

    @property
    def mean(self) -> float | None:
        found = self.found
        return float(np.mean(found)) if found else None

    @property
    def found(self) -> list[float]:
        """The values that could be measured."""
        return [value for value in self.values if value is not None]


@runtime_checkable
class Metric(Protocol):
    """One measure. Its class docstring states the formula and the source."""

    name: str  # "motion_fidelity"
    title: str  # "motion fidelity", for tables
    better: Literal["higher", "lower"]
    range: tuple[float, float]

    def __call__(self, cases: Sequence[Case]) -> Score:
        """Measure. Raises UserError if the metric cannot work at all (missing weights)."""
        ...


@runtime_checkable
class Comparison(Protocol):
    """A measure of videos against the base model's videos of the same prompts and seeds."""

    name: str
    title: str
    better: Literal["higher", "lower"]
    range: tuple[float, float]

    def __call__(self, cases: Sequence[Case], base: Sequence[Case]) -> Score:
        """Measure. `base` has the same prompts and seeds in the same order."""
        ...


class PerCase:
    """A metric of single cases. Subclasses define `value`, which returns None where it does not apply."""

    name: str

    def value(self, case: Case) -> float | None:
        raise NotImplementedError

    def __call__(self, cases: Sequence[Case]) -> Score:
        return Score(self.name, tuple(self.value(case) for case in cases))
