"""What a metric is: one interface for everything that is measured of generated videos.

A metric sees a list of `Case`s (generated videos with all that is known about what they should be) and gives one
number a case, or None where it does not apply or cannot be measured; the score of the list is their mean. Metrics of a
whole set (diversity) give one number for each group they compare and say so. A `Comparison` also sees the videos that the
base model makes of the same prompts and seeds.

Shapes: F frames, H and W pixels, C = 3 colours; videos are uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True)
class Reference:
    """A clip the motion was learnt from."""

    video_FHWC: np.ndarray
    caption: str


@dataclass(frozen=True)
class Case:
    """One generated video and what it is to be compared with."""

    video_FHWC: np.ndarray
    prompt: str
    seed: int
    references: tuple[Reference, ...] = ()


@dataclass(frozen=True)
class Score:
    """What a metric found: one value a case, or a group of cases (None: not measurable), and their mean (None: none was)."""

    metric: str
    values: tuple[float | None, ...]

    @property
    def mean(self) -> float | None:
        found = self.found
        return float(np.mean(found)) if found else None

    @property
    def found(self) -> list[float]:
        """The values that there are."""
        return [value for value in self.values if value is not None]


@runtime_checkable
class Metric(Protocol):
    """One measure. Its class docstring holds the formula and the source."""

    name: str  # "motion_fidelity"
    title: str  # "motion fidelity", for tables
    better: Literal["higher", "lower"]
    range: tuple[float, float]

    def __call__(self, cases: Sequence[Case]) -> Score:
        """Measure. Raises UserError when the metric cannot work at all (missing weights)."""
        ...


@runtime_checkable
class Comparison(Protocol):
    """A measure of videos against those that the base model makes of the same prompts and seeds."""

    name: str
    title: str
    better: Literal["higher", "lower"]
    range: tuple[float, float]

    def __call__(self, cases: Sequence[Case], base: Sequence[Case]) -> Score:
        """Measure. `base` has the same prompts and seeds in the same order."""
        ...


class PerCase:
    """A metric that looks at one case at a time: a class beneath it says `value`, None where it does not apply."""

    name: str

    def value(self, case: Case) -> float | None:
        raise NotImplementedError

    def __call__(self, cases: Sequence[Case]) -> Score:
        return Score(self.name, tuple(self.value(case) for case in cases))
