"""Motion fidelity of real clips: the Motion Fidelity Score over tracklets of feature points.

Letters: N tracklets, F frames. Positions are in frame diagonals, nan after a point is lost.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from datasets.tracklets import tracklets_of
from evaluation.metric import Case, PerCase
from evaluation.metrics.memo import Memo

MOVES = 0.02  # diagonals: tracklets with a shorter path count as resting
RESTS = 0.001  # diagonals: a step this short has no direction
SHARED = 3  # steps that two tracklets must share to be compared


tracklets = Memo(tracklets_of, size=128)
"""`tracklets(video_FHWC) -> [N, F, 2]`: points followed for at least half of the frames, in diagonals."""


def _taken(paths_NF2: np.ndarray, count: int) -> np.ndarray:
    """Sample tracklets at `count` even frames: tracking uses every frame, comparison a common rate."""
    return paths_NF2[:, np.linspace(0, paths_NF2.shape[1] - 1, count).round().astype(int)]


def moving(paths_NF2: np.ndarray) -> np.ndarray:
    """The tracklets with a path of at least 2 % of the diagonal, [M, F, 2]."""
    ways = np.nansum(np.linalg.norm(np.diff(paths_NF2, axis=1), axis=-1), axis=1)
    return paths_NF2[ways >= MOVES]


def tracklet_correlation(a_NF2: np.ndarray, b_MF2: np.ndarray) -> np.ndarray:
    """[N, M]: mean cosine of each pair of tracklets' velocities, over the steps in which both are visible.

    Steps in which both rest are ignored; steps in which one rests count 0. nan if two tracklets share
    fewer than 3 steps.
    """

    def directions(paths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        steps = np.diff(paths, axis=1)
        length = np.linalg.norm(steps, axis=-1)
        seen = np.isfinite(length)
        goes = seen & (length > RESTS)
        return np.where(goes[..., None], steps / np.where(goes, length, 1)[..., None], 0), seen, goes

    (a, seen_a, goes_a), (b, seen_b, goes_b) = directions(a_NF2), directions(b_MF2)
    counted = seen_a[:, None] & seen_b[None] & (goes_a[:, None] | goes_b[None])
    total = (np.einsum("nfc,mfc->nmf", a, b) * counted).sum(-1)
    count = counted.sum(-1)
    return np.where(count >= SHARED, total / np.maximum(count, 1), np.nan)


def _best(correlation: np.ndarray, axis: int) -> np.ndarray:
    """The best match along `axis`; 0 for a tracklet that cannot be compared with any other."""
    best = np.where(np.isnan(correlation), -np.inf, correlation).max(axis=axis)
    return np.where(np.isfinite(best), best, 0.0)


def motion_fidelity_score(a_NF2: np.ndarray, b_MF2: np.ndarray) -> float:
    """The Motion Fidelity Score of two sets of tracklets; see `TrackletFidelity`. Symmetric, in [-1, 1]."""
    a, b = moving(a_NF2), moving(b_MF2)
    if len(a) == 0 or len(b) == 0:
        return 1.0 if len(a) == len(b) else 0.0
    correlation = tracklet_correlation(a, b)
    return float((_best(correlation, 1).mean() + _best(correlation, 0).mean()) / 2)


class TrackletFidelity(PerCase):
    """Motion Fidelity Score with each reference, averaged over references; higher is better, [-1, 1].

    For tracklets T of the generated and R of the reference clip:
    `(mean_{t in T} max_{r in R} corr(t, r) + mean_{r in R} max_{t in T} corr(t, r)) / 2`, with `corr` the
    mean cosine of the two tracklets' velocities (Yatim et al. 2023, arXiv 2311.17009). Positions and the
    scale of movements do not matter. Differences from the paper:
    - tracklets are corners (Shi-Tomasi) tracked by pyramidal Lucas-Kanade, with a round-trip check and a
      check of their surroundings, forwards from the first frame and backwards from the last. The paper
      uses CoTracker, so values are not comparable with those in papers;
    - only moving tracklets count (2 % of the diagonal). A resting clip scores 0 against a moving one and
      1 against another resting one. A zero velocity has no direction, and a resting background would
      otherwise match any other.
    Clips of unequal length are compared at the frames of the shorter, spread evenly. None: no reference
    with trackable points, or fewer than 5 frames. A generated clip without trackable points counts as
    resting. The best match is generous to cluttered motion: compare with `reference_ceiling` and a
    baseline.
    """

    name = "motion_fidelity"
    title = "motion fidelity"
    better: Literal["higher", "lower"] = "higher"
    range = (-1.0, 1.0)

    def value(self, case: Case) -> float | None:
        found = []
        for reference in case.references:
            count = min(len(case.video_FHWC), len(reference.video_FHWC))
            if count >= SHARED + 2:
                theirs = _taken(tracklets(reference.video_FHWC), count)
                if len(theirs):
                    found.append(motion_fidelity_score(_taken(tracklets(case.video_FHWC), count), theirs))
        return float(np.mean(found)) if found else None
