"""Selects the frames of a video that become a clip, and scales them.

Frames are taken at `start + k / fps` seconds, each the one that a player shows then. A clip is never
stretched, padded or silently shortened. The picture is scaled to cover height x width, cropped in the
middle, and never enlarged. A long video gives its first clip, or several consecutive ones (`windows`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from datasets.video.decode import VideoFile
from infra.errors import ConceptError, UserError

MAX_START = 1e6  # seconds
MAX_WINDOWS = 100_000
CUT = 0.3  # minimum colour change at a cut, in levels of an 8-level histogram


class Unsuitable(ConceptError):
    """A readable video that is too short or too small for the requested clip."""

    default_code = "unsuitable_video"


@dataclass(frozen=True)
class Selection:
    """The clips to cut out of each video."""

    frames: int
    height: int
    width: int
    fps: float | None = None  # None: the source's own
    start: float = 0.0  # seconds
    windows: int | None = 1  # maximum number of consecutive clips from a long video; None: all

    def __post_init__(self) -> None:
        if not 2 <= self.frames <= 1024:
            raise UserError(f"--frames {self.frames}: a clip has 2 to 1024 frames.", code="invalid_selection")
        for name, side in (("height", self.height), ("width", self.width)):
            if not 16 <= side <= 4096 or side % 2:
                raise UserError(
                    f"--{name} {side}: expected an even number of pixels from 16 to 4096.",
                    code="invalid_selection",
                )
        if self.fps is not None and not 0.1 <= self.fps <= 240:
            raise UserError(
                f"--fps {self.fps}: expected 0.1 to 240 frames per second.", code="invalid_selection"
            )
        if self.windows is not None and not 1 <= self.windows <= MAX_WINDOWS:
            raise UserError(
                f"--windows {self.windows}: expected 1 to {MAX_WINDOWS}, or all.", code="invalid_selection"
            )
        if not 0 <= self.start < MAX_START:
            raise UserError(
                f"--start {self.start}: expected seconds, at least 0 and below {MAX_START:.0f}.",
                code="invalid_selection",
            )


@dataclass(frozen=True)
class Window:
    """One clip's frames: ascending indices into the source, one for each frame at `fps`."""

    start: float
    fps: float
    indices: tuple[int, ...]

    def identity(self, selection: Selection) -> dict[str, Any]:
        """Values that identify this clip among those of the same source; part of `clip_id`."""
        return {
            "start": round(self.start, 6),
            "fps": round(self.fps, 6),
            "frames": selection.frames,
            "height": selection.height,
            "width": selection.width,
        }


def windows(video: VideoFile, selection: Selection) -> list[Window]:
    """The clips of a video; at least one.

    Raises:
        Unsuitable: fewer frames, seconds or pixels than requested.
    """
    video.scan(0.0)
    if video.complete and len(video.known_F) < 2:
        raise Unsuitable(
            f"{video.name} is too short: a single frame has no motion; give a video of at least 2 frames."
        )
    check_size(video.name, video.width * video.pixel_aspect, video.height, selection)
    fps = selection.fps or round(video.fps, 3)
    found: list[Window] = []
    start = selection.start
    while video.reaches(start + (selection.frames - 1) / fps):
        moments_F = start + np.arange(selection.frames) / fps
        found.append(Window(start, fps, tuple(int(i) for i in video.shown(moments_F))))
        if len(found) == selection.windows:
            break
        start = selection.start + len(found) * selection.frames / fps
    if not found:
        left = max(0, int((video.duration - 1e-3 - selection.start) * fps + 1))
        raise Unsuitable(
            f"{video.name} is too short: from {selection.start:g} s on it has {left} frames at {fps:g} fps, but "
            f"{selection.frames} are needed; lower --frames{' or raise --fps' if fps < video.fps * 0.99 else ''}."
        )
    return found


def at_speed(video: VideoFile, window: Window, selection: Selection, speed: float) -> Window:
    """The same number of frames from the same start, `speed` times as far apart in the source.

    Raises:
        Unsuitable: the video ends before.
    """
    if speed == 1:
        return window
    if not video.reaches(window.start + (selection.frames - 1) * speed / window.fps):
        needed, left = selection.frames * speed / window.fps, max(0.0, video.duration - window.start)
        raise Unsuitable(
            f"{video.name} is too short for speed {speed:g}: from {window.start:g} s on it needs {needed:.2f} s, and there "
            f"are {left:.2f}; lower --frames or --speed, or give a longer video."
        )
    moments_F = window.start + np.arange(selection.frames) * speed / window.fps
    return Window(window.start, window.fps, tuple(int(i) for i in video.shown(moments_F)))


def check_size(name: str, shown_width: float, height: int, selection: Selection) -> None:
    """Raise Unsuitable if the picture would have to be enlarged. `shown_width` is in square pixels."""
    if shown_width < selection.width - 0.5 or height < selection.height:
        raise Unsuitable(
            f"{name} is too small: {round(shown_width)}x{height} pixels do not cover "
            f"{selection.width}x{selection.height}; lower --height and --width or give a larger video."
        )


def crop_box(
    source_height: int, source_width: int, height: int, width: int, pixel_aspect: float = 1.0
) -> tuple[float, float, float, float]:
    """The middle part of a picture that is scaled to height x width: (left, top, right, bottom) in its pixels."""
    shrink = min(source_width * pixel_aspect / width, source_height / height)
    box_width, box_height = width * shrink / pixel_aspect, height * shrink
    left, top = int((source_width - box_width) / 2), int((source_height - box_height) / 2)
    return left, top, min(left + box_width, source_width), min(top + box_height, source_height)


def cover(frame_HWC: np.ndarray, height: int, width: int, pixel_aspect: float = 1.0) -> np.ndarray:
    """Scale a frame to cover height x width and crop the middle: uint8 [height, width, 3]."""
    box = crop_box(frame_HWC.shape[0], frame_HWC.shape[1], height, width, pixel_aspect)
    picture = Image.fromarray(frame_HWC).resize((width, height), Image.Resampling.BICUBIC, box=box)
    return np.asarray(picture)


def cut(video: VideoFile, window: Window, selection: Selection) -> np.ndarray:
    """The clip's frames, uint8 [F, H, W, 3]. Holds one source frame at a time.

    Raises:
        UnreadableVideo: the file is damaged within the window.
        Unsuitable: the pictures become smaller than at the start.
    """
    frames_FHWC = np.empty((selection.frames, selection.height, selection.width, 3), np.uint8)
    for i, frame in enumerate(video.frames(window.indices)):
        check_size(video.name, frame.shape[1] * video.pixel_aspect, frame.shape[0], selection)
        frames_FHWC[i] = cover(frame, selection.height, selection.width, video.pixel_aspect)
    return frames_FHWC


def scene_cuts(frames_FHWC: np.ndarray) -> list[int]:
    """Frames that begin a new scene.

    A cut changes colours at once: the distance between neighbouring frames' colour histograms stands
    out from those around it. Motion, flicker and fades raise the distance for several frames. A cut
    also changes the layout, while a lamp that goes on changes only brightness.
    """
    histograms = [_histogram(frame) for frame in frames_FHWC]
    distances = np.array([np.abs(a - b).sum(-1).mean() for a, b in pairwise(histograms)])
    cuts = []
    for i, distance in enumerate(distances):
        around = np.concatenate([distances[max(0, i - 2) : i], distances[i + 1 : i + 3]])
        usual = float(np.median(around)) if len(around) else 0.0
        if distance > CUT and distance > 3 * usual and not _same_layout(frames_FHWC[i], frames_FHWC[i + 1]):
            cuts.append(i + 1)
    return cuts


def _histogram(frame_HWC: np.ndarray) -> np.ndarray:
    """Cumulative histograms of the picture's quarters, 8 levels per channel: [4, 3, 8].

    A value counts for its two nearest levels, weighted by distance, so that a slow ramp changes it slowly.
    """
    height, width = frame_HWC.shape[0] // 2, frame_HWC.shape[1] // 2
    place = np.arange(256) * (7 / 255)
    low = np.minimum(place.astype(int), 6)
    shares = np.zeros((256, 8))
    shares[np.arange(256), low], shares[np.arange(256), low + 1] = 1 - (place - low), place - low
    found = np.empty((4, 3, 8))
    for q, (top, left) in enumerate(((0, 0), (0, width), (height, 0), (height, width))):
        quarter = frame_HWC[top : top + height, left : left + width]
        for c in range(3):
            counts = np.bincount(quarter[..., c].ravel(), minlength=256) / (height * width)
            found[q, c] = np.cumsum(counts @ shares)
    return found


def _same_layout(a_HWC: np.ndarray, b_HWC: np.ndarray) -> bool:
    """Whether bright and dark areas stay in place, whatever the lighting."""
    small = [np.asarray(Image.fromarray(f).convert("L").resize((16, 16)), np.float64) for f in (a_HWC, b_HWC)]
    first, second = (picture - picture.mean() for picture in small)
    spread = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return spread > 256 and float((first * second).sum()) / spread > 0.6
