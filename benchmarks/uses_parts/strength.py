"""Strength: the scale of a motion against the length of the path that the object travels."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr

from benchmarks.uses_parts.concepts import Concept, videos
from evaluation.metrics.sprite_tracking import tracked
from evaluation.metrics.trajectories import positions
from models.foundations.base import Foundation

SCALES = (0.25, 0.5, 0.75, 1.0, 1.25)
PROMPTS = 6
TARGETS = {"Spearman of scale and travelled length": 0.9, "object present, minus base": -0.05}


def travelled(video_FHWC: np.ndarray) -> float:
    """Length of the object's path in frame widths, from frame to frame in which it is seen."""
    steps = np.linalg.norm(np.diff(positions(video_FHWC), axis=0), axis=1)
    return float(np.nanmean(steps) * len(steps)) if np.isfinite(steps).any() else 0.0


def presence(made: list[np.ndarray]) -> float:
    """Share of the frames in which the object is found."""
    return float(np.mean([tracked(video).found.mean() for video in made]))


def measure(foundation: Foundation, concept: Concept, slot: int) -> dict[str, float]:
    """Values for one concept; each length is a mean over the same prompts and seeds."""
    asked = concept.full(PROMPTS)
    made = {scale: videos(foundation, asked, concept, slot, scale=scale) for scale in SCALES}
    lengths = [float(np.mean([travelled(video) for video in made[scale]])) for scale in SCALES]
    found = {"Spearman of scale and travelled length": float(spearmanr(SCALES, lengths).statistic)}
    base = presence(videos(foundation, asked))
    found["object present, minus base"] = presence(made[1.0]) - base
    return found | {f"length at {scale:g}": length for scale, length in zip(SCALES, lengths, strict=True)}
