"""Tracks feature points of a clip: corners, pyramidal Lucas-Kanade, and checks of its results.

Letters: N points, F frames, H and W pixels. A lost point is nan from then on.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

POINTS = 200
SIDE = 256  # pixels; larger frames are scaled down to this shorter side
ROUND_TRIP = 1.0  # pixels: a point is lost if tracking it forth and back misses its start by more
ALIKE = 0.8  # minimum correlation of a point's surroundings with those at the start


def _greys(video_FHWC: np.ndarray) -> list[np.ndarray]:
    """The frames in grey, with a shorter side of at most SIDE."""
    greys = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in video_FHWC]
    shrink = SIDE / min(greys[0].shape)
    if shrink < 1:
        greys = [cv2.resize(g, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA) for g in greys]
    return greys


def _patches(grey_HW: np.ndarray, points_N2: np.ndarray, side: int) -> np.ndarray:
    """[N, side * side]: each point's surroundings, normalized for brightness and contrast."""
    cut = [cv2.getRectSubPix(grey_HW, (side, side), (float(x), float(y))) for x, y in points_N2]
    flat = np.stack(cut).reshape(len(points_N2), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _follow(greys: list[np.ndarray], points_N2: np.ndarray | None = None) -> np.ndarray:
    """Track points of the first frame (None: its corners) in pixels, nan once lost: [N, F, 2]."""
    if points_N2 is None:
        corners = cv2.goodFeaturesToTrack(greys[0], POINTS, 0.01, max(4, min(greys[0].shape) // 32))
    else:
        corners = points_N2
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
        # A background point at an object's rim is dragged along with it, and soon looks different.
        alive &= (_patches(greys[f], ahead[:, 0], window) * start).sum(axis=1) > ALIKE
        path[alive, f] = ahead[alive, 0]
        now = ahead
    return path


def followed(video_FHWC: np.ndarray, points_N2: np.ndarray) -> np.ndarray:
    """Track points of the first frame: [N, F, 2] in pixels, nan once lost."""
    greys = _greys(video_FHWC)
    # Both sides were rounded when the frame was scaled.
    scale = np.array(greys[0].shape[::-1]) / np.array(video_FHWC.shape[2:0:-1])
    return _follow(greys, np.asarray(points_N2, np.float64) * scale) / scale


def tracklets_of(video_FHWC: np.ndarray) -> np.ndarray:
    """Corners tracked for at least half of the frames, in frame diagonals: [N, F, 2]."""
    greys = _greys(video_FHWC)
    # Also backwards, for what enters the picture late.
    forward, backward = _follow(greys), _follow(greys[::-1])[:, ::-1]
    paths = np.concatenate([forward, backward]) / np.hypot(*greys[0].shape)
    return paths[np.isfinite(paths[:, :, 0]).mean(axis=1) >= 0.5]
