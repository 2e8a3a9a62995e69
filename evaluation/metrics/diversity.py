"""Appearance diversity: how much the videos of one motion differ in appearance.

A metric of sets. Cases with the same references (one concept) form a group, ordered by first case; each group
gives one number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, Generic, Literal, TypeVar

import cv2
import numpy as np

from evaluation.metric import Case, Score
from evaluation.metrics.memo import Memo, content_key
from evaluation.metrics.sprite_tracking import shown

T = TypeVar("T")
BINS = (8, 12, 12)  # for L, a and b


def groups(cases: Sequence[Case]) -> list[list[Case]]:
    """Group cases by their set of references, in order of first appearance."""
    by_references: dict[frozenset[str], list[Case]] = {}
    for case in cases:
        key = frozenset(content_key(r.video_FHWC) for r in case.references)
        by_references.setdefault(key, []).append(case)
    return list(by_references.values())


def mean_pairwise(descriptors: Sequence[T], distance: Callable[[T, T], float]) -> float | None:
    """The mean distance over all pairs; None for fewer than two descriptors."""
    found = [distance(a, b) for a, b in combinations(descriptors, 2)]
    return float(np.mean(found)) if found else None


class PairDistance(Generic[T]):
    """A metric with one value per group: the mean `distance` over pairs of `describe`d videos."""

    name: str

    def describe(self, video_FHWC: np.ndarray) -> T:
        raise NotImplementedError

    @staticmethod
    def distance(a: Any, b: Any) -> float:
        raise NotImplementedError

    def __call__(self, cases: Sequence[Case]) -> Score:
        seen = ([self.describe(case.video_FHWC) for case in group] for group in groups(cases))
        return Score(self.name, tuple(mean_pairwise(group, self.distance) for group in seen))


class SpriteDiversity(PairDistance[dict[str, str | None]]):
    """Mean pairwise distance of the tracker's attributes; higher is more diverse, [0, 1].

    `d(a, b)` is the share of colour, shape, texture, background colour and background kind that differ
    (a normalised Hamming distance). A group of n videos scores the mean of its n (n - 1) / 2 pairs. An
    attribute missing from one of the two (no object) counts as equal, so that lost objects do not add
    diversity. Compare only results for the same prompts, which bound what can differ. One value per
    group of cases with the same references; None for a group of one. Own measure, after the "appearance
    diversity" of MotionDirector (arXiv 2310.08465).
    """

    name = "appearance_diversity"
    title = "appearance diversity"
    better: Literal["higher", "lower"] = "higher"
    range = (0.0, 1.0)

    def describe(self, video_FHWC: np.ndarray) -> dict[str, str | None]:
        return shown(video_FHWC)

    @staticmethod
    def distance(a: dict[str, str | None], b: dict[str, str | None]) -> float:
        return float(np.mean([None not in (a[k], b[k]) and a[k] != b[k] for k in a]))


def _histogram(video_FHWC: np.ndarray) -> np.ndarray:
    """Histogram [8, 12, 12], summing to 1, of the pixels of all frames in CIE Lab (D65)."""
    pixels = np.ascontiguousarray(video_FHWC).reshape(1, -1, 3).astype(np.float32) / 255
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
    counts = cv2.calcHist([lab], [0, 1, 2], None, list(BINS), [0, 100.001, -100, 100, -110, 110])
    return counts / counts.sum()


lab_histogram = Memo(_histogram)
"""`lab_histogram(video_FHWC) -> [8, 12, 12]` (L, a, b), summing to 1."""


class ColourDiversity(PairDistance[np.ndarray]):
    """Mean pairwise Hellinger distance of Lab colour histograms; higher is more diverse, [0, 1]. Any video.

    `H(p, q) = sqrt(1 - sum(sqrt(p q)))` with p, q the videos' histograms of 8 x 12 x 12 bins in CIE
    Lab; 0 for the same colours, 1 for no colour in common. A group of n videos scores the mean over its
    pairs. It measures colours, not shapes; `ClipDiversity` measures both but needs CLIP weights. One
    value per group of cases with the same references; None for a group of one. Source of the distance:
    Bhattacharyya 1943 / Hellinger 1909, as in OpenCV's `HISTCMP_BHATTACHARYYA`.
    """

    name = "colour_diversity"
    title = "colour diversity"
    better: Literal["higher", "lower"] = "higher"
    range = (0.0, 1.0)

    def describe(self, video_FHWC: np.ndarray) -> np.ndarray:
        return lab_histogram(video_FHWC)

    @staticmethod
    def distance(p: np.ndarray, q: np.ndarray) -> float:
        return float(np.sqrt(max(0.0, 1.0 - np.sqrt(p * q).sum())))
