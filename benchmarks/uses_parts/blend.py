"""Blend: three motions at once, weighted; the path is compared with the weighted mean of their paths.

Motions of one kind only: of a walk around a square and a shake there is no mean that anyone would expect. The weights are
the adapters' scales, with the sum 1, and with the sum 1.5 as well, because adapters act beyond proportion.

A path counts without its place in the frame. Its distance to the mean path is the root mean square over the frames, in units
of the mean path's own spread (root mean square distance from its middle).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from benchmarks.uses_parts.lab import Concept, Lab, Part
from benchmarks.uses_parts.use import Target, Unit, Use, Values, mean
from evaluation.metrics.trajectories import FEWEST, positions, trajectory_agreement

TRIOS = (  # by kind: one way, around, to and fro
    ("arc", "hook", "meander"),
    ("square", "spiral", "figure-eight"),
    ("shake", "pendulum", "lunge"),
)
WEIGHTS = {"a third each": (1 / 3, 1 / 3, 1 / 3), "half, a third, a sixth": (1 / 2, 1 / 3, 1 / 6)}
SUMS = (1.0, 1.5)
PROMPTS = 4


class Blend(Use):
    targets = {  # noqa: RUF012
        f"distance from the mean path, {name}": Target(0.15, "lower") for name in WEIGHTS
    }

    trainings = 3

    def units(self, motions: Sequence[str], seeds: Sequence[int]) -> list[Unit]:
        """The trios that contain one of these motions; all if none does."""
        chosen = [trio for trio in TRIOS if set(trio) & set(motions)] or TRIOS
        return [Unit(trio, seed) for seed in seeds for trio in chosen]

    def measure(self, lab: Lab, unit: Unit, concepts: list[Concept]) -> Values:
        asked = concepts[0].full(PROMPTS)
        paths = [positions(concept.reference.video_FHWC) for concept in concepts]
        base = lab.videos(asked)
        found: Values = {}
        for (name, weights), total in product(WEIGHTS.items(), SUMS):
            parts = [Part(one, scale=total * weight) for one, weight in zip(concepts, weights, strict=True)]
            wanted = mean_path(paths, weights)
            made = [positions(video) for video in lab.videos(asked, *parts)]
            title = name if total == 1 else f"{name}, sum {total:g}"
            found |= {
                f"distance from the mean path, {title}": mean([distance(path, wanted) for path in made]),
                f"agreement with the mean path, {title}": mean(
                    [trajectory_agreement(path, wanted) for path in made]
                ),
                f"agreement with the nearest motion, {title}": mean(
                    [max(trajectory_agreement(path, one) for one in paths) for path in made]
                ),
            }
            if total == 1:
                found[f"distance of the base model's, {title}"] = mean(
                    [distance(positions(video), wanted) for video in base]
                )
        return found


def centred(path_F2: np.ndarray) -> np.ndarray:
    """A path without its place: minus its mean over the frames in which the object is seen."""
    return path_F2 - np.nanmean(path_F2, axis=0)


def mean_path(paths: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """The weighted mean of paths without their places, frame by frame [F, 2]. Weights have the sum 1."""
    return sum(weight * centred(path) for path, weight in zip(paths, weights, strict=True))  # type: ignore[return-value]


def distance(path_F2: np.ndarray, wanted_F2: np.ndarray) -> float:
    """The distance of a path from the wanted one, in its spread; nan if fewer than FEWEST frames show the object."""
    both = np.isfinite(path_F2).all(axis=1) & np.isfinite(wanted_F2).all(axis=1)
    if both.sum() < FEWEST:
        return float("nan")
    path, wanted = centred(path_F2[both]), centred(wanted_F2[both])
    return float(np.sqrt(((path - wanted) ** 2).sum() / (wanted**2).sum()))
