"""What the exact tracker sees in a video, and whether the tracker applies to it.

Letters: F frames, H and W pixels, C = 3 colours.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from datasets.sprites.track import Track, track
from evaluation.metrics.memo import Memo
from infra.errors import UserError

SIDE = 64  # pixels; the tracker's errors are known at this side (evaluation/tracker_accuracy.py)
CONFIDENT = 0.75  # overlap with the best shape: rendered objects have 0.8 to 1, real clips at most 0.7


def at_side(video_FHWC: np.ndarray) -> np.ndarray:
    """Average larger frames down to SIDE. Lengths are in frame widths, so nothing else changes."""
    if video_FHWC.shape[1] <= SIDE:
        return video_FHWC
    size = (SIDE, SIDE)
    return np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BOX)) for f in video_FHWC])


def _track(video_FHWC: np.ndarray) -> Track:
    frames, height, width = video_FHWC.shape[:3]
    if height != width or frames == 0:
        raise UserError(
            f"the sprite tracker got a video of {frames} frames of {width}x{height} pixels; expected square frames: generate "
            "square videos, or use the metrics for real clips."
        )
    return track(at_side(video_FHWC))


tracked = Memo(_track, size=1024)
"""`tracked(video_FHWC) -> Track`: the tracker's detections of a square video, shared by all metrics. Raises UserError."""


def is_sprite_world(video_FHWC: np.ndarray) -> bool:
    """Whether the tracker applies: square frames, with an object that fits a known shape in more than half.

    "Fits" is a soft intersection over union of at least 0.75. Clips of other things score below 0.7. So
    do the few rendered clips whose object has nearly the background's colour (white on beige), which
    the tracker cannot follow either.
    """
    if video_FHWC.shape[1] != video_FHWC.shape[2] or len(video_FHWC) == 0:
        return False
    confidences = np.array([detection.confidence for detection in tracked(video_FHWC).detections])
    return bool((confidences >= CONFIDENT).mean() > 0.5)


FIELDS = ("colour", "shape", "texture", "background", "background_kind")


def shown(video_FHWC: np.ndarray) -> dict[str, str | None]:
    """What most frames show, by field of FIELDS.

    The object's fields are the most frequent readings, or None if fewer than half of the frames show an
    object.
    """
    seen = tracked(video_FHWC)
    there = seen.found.mean() >= 0.5
    return {name: seen.most(name) if there or name.startswith("background") else None for name in FIELDS}
