"""Motion fidelity of sprites: whether the object follows the references' path, at any position and scale.

Letters: F frames. Positions and radii are in frame widths, y down; a frame without an object is a row of nan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from evaluation.metric import Case, Metric, PerCase, Reference
from evaluation.metrics.sprite_tracking import tracked

STILL = 0.015  # frame widths: a path with a smaller root mean square spread counts as resting
SAME_SIZE = (
    0.04  # spread of log radius below which the size stays; tracker noise is below 0.02, "grows" has 0.2
)
FEWEST = 3  # frames; two points always form a straight path


def _spread(path: np.ndarray) -> float:
    """Root mean square distance from the mean."""
    centred = path - path.mean(axis=0)
    return float(np.sqrt((centred**2).sum() / len(path)))


def _aligned(a_FD: np.ndarray, b_FD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both paths with the frame count of the shorter: the longer one is resampled over the clip's length."""
    count = min(len(a_FD), len(b_FD))

    def read(path: np.ndarray) -> np.ndarray:
        if len(path) == count:
            return path
        at, t = np.linspace(0, len(path) - 1, count), np.arange(len(path))
        return np.stack([np.interp(at, t, column) for column in path.T], axis=1)

    return read(a_FD), read(b_FD)


def _agreement(a_FD: np.ndarray, b_FD: np.ndarray, still: float) -> float:
    a, b = _aligned(np.asarray(a_FD, float), np.asarray(b_FD, float))
    both = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    if both.sum() < FEWEST:
        return 0.0
    share = float(both.mean())
    a, b = a[both] - a[both].mean(axis=0), b[both] - b[both].mean(axis=0)
    rests = _spread(a) < still, _spread(b) < still
    if all(rests):
        return share
    if any(rests):
        return 0.0
    correlation = float(np.clip((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1))
    return correlation * share if correlation > 0 else correlation  # so that losing the object never helps


def trajectory_agreement(a_F2: np.ndarray, b_F2: np.ndarray) -> float:
    """Similarity of two trajectories without position and scale offsets; symmetric in its arguments.

    With a, b the positions minus their means, over the frames in which both objects are seen:
    `sum(a * b) / (|a| |b|)`, in [-1, 1] (1 same path, -1 opposite), times the share of frames in which both
    are seen (if positive). Fewer than 3 such frames give 0. An object rests if its root mean square
    distance from its mean is below 1.5 % of the frame. Two resting objects agree (1); a resting and a
    moving one do not (0).

    Args:
        a_F2, b_F2: positions in frame widths, nan where nothing is seen. The longer one is interpolated
            linearly at the frames of the shorter.
    """
    return _agreement(a_F2, b_F2, STILL)


def scale_agreement(a_F: np.ndarray, b_F: np.ndarray) -> float:
    """`trajectory_agreement` of two series of log radii (a size factor is an offset there), in [-1, 1].

    An object keeps its size if the standard deviation of log radius is below 0.04.
    """
    return _agreement(np.log(a_F)[:, None], np.log(b_F)[:, None], SAME_SIZE)


def positions(video_FHWC: np.ndarray) -> np.ndarray:
    """The object's position in each frame [F, 2]; nan where it is not found."""
    seen = tracked(video_FHWC)
    return np.stack([seen.x, seen.y], axis=1)


def size_changes(radius_F: np.ndarray) -> bool:
    """Whether the object's size is part of the motion."""
    known = radius_F[np.isfinite(radius_F)]
    return len(known) >= FEWEST and float(np.std(np.log(known))) >= SAME_SIZE


def _against_references(case: Case, agree: Callable[[Reference], float | None]) -> float | None:
    found = [value for reference in case.references if (value := agree(reference)) is not None]
    return float(np.mean(found)) if found else None


class MotionFidelity(PerCase):
    """`trajectory_agreement` with each reference, averaged over the references; higher is better, [-1, 1].

    This is the Motion Fidelity Score of Yatim et al. 2023 (arXiv 2311.17009: each tracklet of one video
    with its best match in the other, averaged over both videos' tracklets) for videos with a single
    tracklet, the object; both directions then give the same number. They correlate velocities;
    positions carry the same path with less tracker noise. Rotation is not measured: half of the shapes
    look the same after part of a turn. For motions that change size (grows, zooms), `ScaleFidelity`
    says more. A reference whose object is found in fewer than 3 frames is left out. None if no
    reference is left.
    """

    name = "motion_fidelity"
    title = "motion fidelity"
    better: Literal["higher", "lower"] = "higher"
    range = (-1.0, 1.0)

    def value(self, case: Case) -> float | None:
        generated = positions(case.video_FHWC)

        def agree(reference: Reference) -> float | None:
            theirs = positions(reference.video_FHWC)
            known = np.isfinite(theirs).all(axis=1).sum()
            return trajectory_agreement(generated, theirs) if known >= FEWEST else None

        return _against_references(case, agree)


class ScaleFidelity(PerCase):
    """Mean `scale_agreement` with the references whose size changes; higher is better, [-1, 1].

    None if no reference changes its size, since agreement on "no change" would be 1 for nearly any
    video. Own measure, for motions of size (grows, zooms, dollies, a corkscrew).
    """

    name = "scale_fidelity"
    title = "scale fidelity"
    better: Literal["higher", "lower"] = "higher"
    range = (-1.0, 1.0)

    def value(self, case: Case) -> float | None:
        generated = tracked(case.video_FHWC).radius

        def agree(reference: Reference) -> float | None:
            radius = tracked(reference.video_FHWC).radius
            return scale_agreement(generated, radius) if size_changes(radius) else None

        return _against_references(case, agree)


# Names of the metrics of agreement with the references, which have a ceiling.
AGREEMENTS = ("motion_fidelity", "scale_fidelity")


def reference_ceiling(references: Sequence[Reference], metric: Metric | None = None) -> float | None:
    """The references' score against one another: each in turn acts as the generated video for the others.

    "At least 0.85 of what the reference clips themselves score" means `score.mean >= 0.85 *
    reference_ceiling(...)`. `metric` defaults to `MotionFidelity()` (use `TrackletFidelity()` for real
    clips). References that it cannot compare even with themselves are left out. None with fewer than
    two left, since one clip does not show how much its motion varies.
    """
    metric = metric or MotionFidelity()
    own = metric([Case(r.video_FHWC, r.caption, 0, (r,)) for r in references]).values
    kept = [r for r, value in zip(references, own, strict=True) if value is not None]
    if len(kept) < 2:
        return None
    return metric(
        [Case(r.video_FHWC, r.caption, 0, (*kept[:i], *kept[i + 1 :])) for i, r in enumerate(kept)]
    ).mean
