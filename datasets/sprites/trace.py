"""Traces a path from a real clip for a sprite: of the tracklet that moves most, or of a given point.

Letters: N tracklets, F frames of the clip, H and W pixels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.tracklets import followed, tracklets_of
from infra.errors import UserError
from infra.files import atomic_file

EXTENT = 0.5  # frame widths: the longer side of a traced path, as for the named motions
LEAST = 0.02  # diagonals: smaller movements are rest and tracker noise
FEWEST = 5  # frames in which the point must be seen


@dataclass(frozen=True)
class Trace:
    """The path of one point of a clip.

    Args:
        pixels_F2: its position in the clip's frames, in pixels; nan where it is not seen.
        path_F2: the path for the sprite's square frame, in frame widths, from the first to the last
            frame in which it is seen: centred, and scaled equally in x and y.
        first: the frame in which the path begins.
        extent: the longer side of the path's bounding box in the clip, in frame diagonals.
    """

    pixels_F2: np.ndarray
    path_F2: np.ndarray
    first: int
    extent: float

    @property
    def seen(self) -> int:
        """The number of frames in which the point was tracked."""
        return int(np.isfinite(self.pixels_F2[:, 0]).sum())


def trace_clip(video_FHWC: np.ndarray, point: tuple[float, float] | None = None) -> Trace:
    """The path of `point` (x, y in the first frame's pixels), or of the tracklet that moves most and longest.

    Tracklets last at least half of the clip.

    Raises:
        UserError: nothing in the clip moves, or the point is outside the frame, gets lost or rests.
    """
    frames, height, width = video_FHWC.shape[:3]
    diagonal = float(np.hypot(height, width))
    if frames < FEWEST:
        raise UserError(f"the clip has {frames} frames; a path needs at least {FEWEST}.")
    if point is None:
        pixels = _most_moving(tracklets_of(video_FHWC)) * diagonal
    else:
        x, y = point
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(
                f"the point {x:g},{y:g} is not in the frame; x must be 0 to {width - 1} and y 0 to {height - 1} (pixels)."
            )
        pixels = followed(video_FHWC, np.array([[x, y]], float))[0]
    known = np.flatnonzero(np.isfinite(pixels[:, 0]))
    if len(known) < FEWEST:
        raise UserError(
            f"the point {point[0]:g},{point[1]:g} is lost after {len(known)} of {frames} frames; choose a point with texture "
            "around it that stays visible."
            if point
            else "no point of the clip can be tracked."
        )
    at = np.arange(known[0], known[-1] + 1)
    whole = np.stack([np.interp(at, known, pixels[known, i]) for i in (0, 1)], axis=1)
    box = float(np.ptp(whole, axis=0).max())
    if box < LEAST * diagonal:
        raise UserError(
            f"the point {point[0]:g},{point[1]:g} rests: it moves by {box:.1f} pixels, less than {LEAST:.0%} of the diagonal; "
            "choose a point that moves."
            if point
            else "nothing in the clip moves by 2 % of its diagonal; choose a point with --point x,y."
        )
    middle = (whole.max(axis=0) + whole.min(axis=0)) / 2
    return Trace(pixels, 0.5 + (whole - middle) * EXTENT / box, int(known[0]), box / diagonal)


def _most_moving(paths_NF2: np.ndarray) -> np.ndarray:
    """The tracklet [F, 2] with the largest product of box diagonal and share of frames seen; nan if none."""
    if not len(paths_NF2):
        return np.full(paths_NF2.shape[1:], np.nan)
    seen = np.isfinite(paths_NF2[:, :, 0]).mean(axis=1)
    extents = np.nanmax(paths_NF2, axis=1) - np.nanmin(paths_NF2, axis=1)
    return paths_NF2[int(np.argmax(np.linalg.norm(extents, axis=-1) * seen))]


def write_trajectory(trace: Trace, times_F: np.ndarray, path: Path) -> None:
    """Write the path as a JSON file for `motion_sources.read_trajectory`: [t, x, y], t in seconds of the clip.

    Args:
        times_F: display time of each of the clip's frames, in seconds.
    """
    points = [
        [round(float(times_F[trace.first + i]), 4), *(round(float(v), 4) for v in place)]
        for i, place in enumerate(trace.path_F2)
    ]
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(points) + "\n")
