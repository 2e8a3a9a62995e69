"""Motion fidelity of real clips: the Motion Fidelity Score over tracklets of feature points.

Letters: N tracklets, F frames. Positions are in units of the frame's diagonal, nan after a point is lost.
"""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np

from evaluation.metric import Case, PerCase
from evaluation.metrics.memo import Memo

POINTS = 200
SIDE = 256  # pixels: larger frames are scaled so that their shorter side has this many
ROUND_TRIP = 1.0  # pixels: a point tracked there and back that misses its start by more is lost
ALIKE = 0.8  # correlation of a point's surroundings with those it had at the start
MOVES = 0.02  # diagonals: a tracklet whose way is shorter belongs to what rests
RESTS = 0.001  # diagonals: a step this short has no direction
SHARED = 3  # steps two tracklets must share to be compared


def _greys(video_FHWC: np.ndarray) -> list[np.ndarray]:
    """The frames in grey, their shorter side at most SIDE."""
    greys = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in video_FHWC]
    shrink = SIDE / min(greys[0].shape)
    if shrink < 1:
        greys = [cv2.resize(g, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA) for g in greys]
    return greys


def _patches(grey_HW: np.ndarray, points_N2: np.ndarray, side: int) -> np.ndarray:
    """[N, side * side]: what surrounds each point, without its mean brightness and its contrast."""
    cut = [cv2.getRectSubPix(grey_HW, (side, side), (float(x), float(y))) for x, y in points_N2]
    flat = np.stack(cut).reshape(len(points_N2), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _follow(greys: list[np.ndarray]) -> np.ndarray:
    """[N, F, 2], pixels: corners of the first frame followed by pyramidal Lucas-Kanade, nan once lost."""
    corners = cv2.goodFeaturesToTrack(greys[0], POINTS, 0.01, max(4, min(greys[0].shape) // 32))
    if corners is None:
        return np.empty((0, len(greys), 2))
    now = corners.reshape(-1, 1, 2).astype(np.float32)
    window = max(9, min(greys[0].shape) // 12) | 1
    options: dict[str, Any] = {"winSize": (window, window), "maxLevel": 3}
    height, width = greys[0].shape
    start = _patches(greys[0], now[:, 0], window)
    alive = np.ones(len(now), bool)
    path = np.full((len(now), len(greys), 2), np.nan)
    path[:, 0] = now[:, 0]
    for f in range(1, len(greys)):
        ahead, found, _ = cv2.calcOpticalFlowPyrLK(greys[f - 1], greys[f], now, None, **options)
        returned, found_back, _ = cv2.calcOpticalFlowPyrLK(greys[f], greys[f - 1], ahead, None, **options)
        gap = np.linalg.norm((returned - now)[:, 0], axis=1)
        inside = ((ahead[:, 0] >= 0) & (ahead[:, 0] <= (width - 1, height - 1))).all(axis=1)
        alive &= (found[:, 0] == 1) & (found_back[:, 0] == 1) & (gap < ROUND_TRIP) & inside
        # a point of the background at the rim of an object is dragged along with it, and looks different soon
        alive &= (_patches(greys[f], ahead[:, 0], window) * start).sum(axis=1) > ALIKE
        path[alive, f] = ahead[alive, 0]
        now = ahead
    return path


def _tracklets(video_FHWC: np.ndarray) -> np.ndarray:
    greys = _greys(video_FHWC)
    # from either end of time: what enters the picture late is followed backwards
    forward, backward = _follow(greys), _follow(greys[::-1])[:, ::-1]
    paths = np.concatenate([forward, backward]) / np.hypot(*greys[0].shape)
    return paths[np.isfinite(paths[:, :, 0]).mean(axis=1) >= 0.5]


tracklets = Memo(_tracklets, size=128)
"""`tracklets(video_FHWC) -> [N, F, 2]`: points followed for at least half of the frames, in diagonals."""


def _taken(paths_NF2: np.ndarray, count: int) -> np.ndarray:
    """The tracklets at `count` frames spread evenly: followed frame by frame, compared at a common rate."""
    return paths_NF2[:, np.linspace(0, paths_NF2.shape[1] - 1, count).round().astype(int)]


def moving(paths_NF2: np.ndarray) -> np.ndarray:
    """Those whose way is at least 2 % of the diagonal long, [M, F, 2]."""
    ways = np.nansum(np.linalg.norm(np.diff(paths_NF2, axis=1), axis=-1), axis=1)
    return paths_NF2[ways >= MOVES]


def tracklet_correlation(a_NF2: np.ndarray, b_MF2: np.ndarray) -> np.ndarray:
    """[N, M]: mean cosine of the velocities of each pair of tracklets, over the steps that both were seen in.

    A step in which both rest counts for nothing, one in which one of them rests counts 0. nan where two tracklets
    share fewer than 3 steps.
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
    """The best match along `axis`; 0 for a tracklet that none can be compared with."""
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
    """Motion Fidelity Score with each reference, mean over them; higher is better, [-1, 1].

    For tracklets T of the generated and R of the reference clip:
    `(mean_{t in T} max_{r in R} corr(t, r) + mean_{r in R} max_{t in T} corr(t, r)) / 2`, with `corr` the mean cosine of
    the two tracklets' velocities (Yatim et al. 2023, arXiv 2311.17009). Positions and the scale of movements do not
    matter. What differs from the paper:
    - tracklets are corners (Shi-Tomasi) followed by pyramidal Lucas-Kanade with a round-trip check and a check of their surroundings, from the first
      frame forwards and from the last one backwards, not CoTracker's: values are not those of papers;
    - only tracklets that move (2 % of the diagonal) count; a clip at rest against one that moves scores 0, two clips at
      rest score 1. A velocity of nothing has no direction, and a background at rest would otherwise agree with any
      other.
    Clips of unequal length are compared at the frames of the shorter, spread evenly. None: no reference in which
    points can be followed, or fewer than 5 frames. A generated clip in which none can scores as one at rest. The best match is generous to cluttered motion: read it against `reference_ceiling` and a baseline.
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
