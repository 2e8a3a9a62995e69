"""Strength: the scale of a motion against the length of the path that the object travels."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr

from benchmarks.uses_parts.lab import Concept, Lab, Part
from benchmarks.uses_parts.use import Target, Unit, Use, Values
from evaluation.metrics.sprite_tracking import tracked
from evaluation.metrics.trajectories import positions

SCALES = (0.25, 0.5, 0.75, 1.0, 1.25)
PROMPTS = 6


class Strength(Use):
    targets = {  # noqa: RUF012
        "Spearman of scale and travelled length": Target(0.9),
        "object present, minus base": Target(-0.05),
    }

    def measure(self, lab: Lab, unit: Unit, concepts: list[Concept]) -> Values:
        """Each length is a mean over the same prompts and seeds."""
        [concept] = concepts
        asked = concept.full(PROMPTS)
        made = {scale: lab.videos(asked, Part(concept, scale=scale)) for scale in SCALES}
        lengths = [float(np.mean([travelled(video) for video in made[scale]])) for scale in SCALES]
        found = {
            "Spearman of scale and travelled length": float(spearmanr(SCALES, lengths).statistic),
            "object present, minus base": presence(made[1.0]) - presence(lab.videos(asked)),
        }
        return found | {f"length at {scale:g}": length for scale, length in zip(SCALES, lengths, strict=True)}


def travelled(video_FHWC: np.ndarray) -> float:
    """Length of the object's path in frame widths, from frame to frame in which it is seen."""
    steps = np.linalg.norm(np.diff(positions(video_FHWC), axis=0), axis=1)
    return float(np.nanmean(steps) * len(steps)) if np.isfinite(steps).any() else 0.0


def presence(made: list[np.ndarray]) -> float:
    """Share of the frames in which the object is found."""
    return float(np.mean([tracked(video).found.mean() for video in made]))
