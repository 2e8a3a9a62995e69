"""The interface of a use in benchmarks/uses.py, and measures that several uses share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from benchmarks.uses_parts.lab import Concept, Lab, Recipe, motion
from evaluation.metric import Case, Reference
from evaluation.metrics.sprite_appearance import AppearanceAccuracy
from evaluation.metrics.trajectories import MotionFidelity
from motiondirector.study.looks import Asked

LEAST = 0.1  # a share of less than this is not reported: the denominator is chance
Values = dict[str, float]  # nan: could not be measured


@dataclass(frozen=True)
class Target:
    """The value to reach."""

    value: float
    better: Literal["higher", "lower"] = "higher"


@dataclass(frozen=True)
class Unit:
    """What is measured at once: motions, with one seed for training, looks and noise."""

    motions: tuple[str, ...]
    seed: int

    @property
    def title(self) -> str:
        return " + ".join(self.motions)


class Use(ABC):
    """A use of a motion. Its module's docstring says what is measured."""

    targets: ClassVar[Mapping[str, Target]] = {}
    trainings = 1  # of one kind that a unit needs: its motions, unless said otherwise
    edition = 1  # raise it when a value changes for the same trainings: stored values are then measured again

    def units(self, motions: Sequence[str], seeds: Sequence[int]) -> list[Unit]:
        """What to measure, for these motions and seeds: by default each motion by itself."""
        return [Unit((name,), seed) for seed in seeds for name in motions]

    def recipes(self, unit: Unit) -> list[Recipe]:
        """What a unit needs to be learned: by default its motions."""
        return [motion(name, unit.seed) for name in unit.motions]

    @abstractmethod
    def measure(self, lab: Lab, unit: Unit, concepts: list[Concept]) -> Values:
        """The values of one unit.

        Args:
            concepts: of `recipes`, in order.
        """


def cases_of(
    videos: Sequence[np.ndarray], asked: Sequence[Asked], clips: tuple[Reference, ...] = ()
) -> list[Case]:
    """Videos of prompts, as metrics take them, with the clips that they are compared with."""
    return [Case(video, one.prompt, one.seed, clips) for video, one in zip(videos, asked, strict=True)]


def fidelity(cases: Sequence[Case]) -> float:
    """Mean agreement of the paths with the reference's."""
    return known(MotionFidelity()(cases).mean)


def right(cases: Sequence[Case]) -> float:
    """Share of the looks named by the prompts that the videos show."""
    return known(AppearanceAccuracy()(cases).mean)


def known(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def share(value: float, of: float) -> float:
    """A value as a share of another; nan if that is next to nothing."""
    return value / of if of >= LEAST else float("nan")


def mean(values: Sequence[float]) -> float:
    """The mean of those that could be measured; nan if there are none."""
    found = [value for value in values if np.isfinite(value)]
    return float(np.mean(found)) if found else float("nan")
