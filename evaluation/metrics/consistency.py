"""Temporal consistency without network weights: how well a video keeps its appearance from frame to frame.

A frozen video scores best, so always read these metrics together with motion fidelity.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import cv2
import numpy as np

from evaluation.metric import Case, PerCase
from evaluation.metrics.memo import Memo
from evaluation.metrics.sprite_tracking import tracked

ATTRIBUTES = ("colour", "shape", "background")


class SpriteConsistency(PerCase):
    """Mean share of colour, shape and background kept between frames; higher is better, [0, 1].

    `mean over f and attribute of [seen_f = seen_{f+1}]`. An attribute that a frame does not show (no
    object) never matches. The measured shape may flicker between two shapes that look alike after blur,
    so rendered clips score 0.95 or more, not always 1. None for a single frame. Own measure, after the
    consecutive-frame similarity of VBench (arXiv 2311.17982).
    """

    name = "temporal_consistency"
    title = "temporal consistency"
    better: Literal["higher", "lower"] = "higher"
    range = (0.0, 1.0)

    def value(self, case: Case) -> float | None:
        same = [
            getattr(a, name) is not None and getattr(a, name) == getattr(b, name)
            for a, b in pairwise(tracked(case.video_FHWC).detections)
            for name in ATTRIBUTES
        ]
        return float(np.mean(same)) if same else None


def _flow(grey_a_HW: np.ndarray, grey_b_HW: np.ndarray) -> np.ndarray:
    """Optical flow from a to b, float32 [H, W, 2] in pixels (DIS, Kroeger et al. 2016)."""
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(grey_a_HW, grey_b_HW, None)


def _warp(image_HW: np.ndarray, flow_HW2: np.ndarray) -> np.ndarray:
    """Sample `image` at the positions that `flow` points to (bilinear)."""
    x, y = np.meshgrid(np.arange(flow_HW2.shape[1]), np.arange(flow_HW2.shape[0]))
    where = np.stack([x, y], axis=-1).astype(np.float32) + flow_HW2
    return cv2.remap(image_HW, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _visible(there_HW2: np.ndarray, back_HW2: np.ndarray) -> np.ndarray:
    """bool [H, W]: pixels of a visible in b, i.e. inside the frame and with consistent flow both ways.

    `|w + w'|^2 < 0.01 (|w|^2 + |w'|^2) + 0.5`, with w' the backward flow at the point (Ruder et al. 2016).
    """
    height, width = there_HW2.shape[:2]
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    at_x, at_y = x + there_HW2[..., 0], y + there_HW2[..., 1]
    inside = (at_x >= 0) & (at_x <= width - 1) & (at_y >= 0) & (at_y <= height - 1)
    returned = _warp(back_HW2, there_HW2)
    gap = ((there_HW2 + returned) ** 2).sum(-1)
    return inside & (gap < 0.01 * ((there_HW2**2).sum(-1) + (returned**2).sum(-1)) + 0.5)


def _warping_error(video_FHWC: np.ndarray) -> float | None:
    if min(video_FHWC.shape[1:3]) < 16:  # DIS uses patches of 8 pixels on a pyramid
        return None
    greys = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in video_FHWC]
    frames = video_FHWC.astype(np.float32) / 255
    errors = []
    for f in range(len(frames) - 1):
        there, back = _flow(greys[f], greys[f + 1]), _flow(greys[f + 1], greys[f])
        mask = _visible(there, back)
        if mask.any():
            errors.append(((frames[f] - _warp(frames[f + 1], there)) ** 2).mean(axis=-1)[mask].mean())
    return float(np.mean(errors)) if errors else None


warping_error = Memo(_warping_error)
"""`warping_error(video_FHWC) -> float | None`: see `WarpingError`."""


class WarpingError(PerCase):
    """Motion-compensated difference of consecutive frames; lower is better, [0, 1] (real: 0.0005 to 0.02).

    `E(t) = sum_p M_p |V_t(p) - V_{t+1}(p + w_p)|^2 / (3 sum_p M_p)`, averaged over t: colours in [0,
    1], w the optical flow from t to t+1 (DIS), M the pixels not occluded (forward and backward flow
    agree). This is E_warp of Lai et al. 2018, "Learning Blind Video Temporal Consistency" (arXiv
    1808.00449), divided by the 3 colours. They use FlowNet2's flow of the unprocessed video, which does
    not exist for a generated one. None: fewer than two frames, sides below 16 pixels, or no pixel with
    consistent flow.
    """

    name = "warping_error"
    title = "warping error"
    better: Literal["higher", "lower"] = "lower"
    range = (0.0, 1.0)

    def value(self, case: Case) -> float | None:
        return warping_error(case.video_FHWC)
