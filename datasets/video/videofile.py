"""An open video: its pictures by number and by the time at which a player shows them.

`datasets/video/decode.py` opens one. The two kinds (`datasets/video/avvideo.py` for video streams,
`datasets/video/animation.py` for GIF, WebP and APNG) find and decode pictures; this module has what they
share.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from infra.errors import ConceptError

MAX_SIDE = 8192  # allows 8K (7680x4320)
MAX_PIXELS = 1 << 34  # decoded for one clip: 8,000 frames of full HD, 500 of 8K
MAX_SECONDS = 60.0  # CPU time of this thread for one clip, so a busy machine does not count
EARLY = 0.005  # seconds of tolerance: containers round times, and camera times jitter
ON_BLACK = "transparent: shown on black"  # note on a video with transparency


class UnreadableVideo(ConceptError):
    """The bytes are not a video that a decoder here can read; the message says why."""

    default_code = "unreadable_video"


class Clock:
    """The time limit for one clip. Hostile files decode without end; ordinary ones need a second."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.restart()

    def restart(self) -> None:
        """Start the time of the next clip."""
        self.end = time.thread_time() + MAX_SECONDS

    def check(self) -> None:
        """Raise UnreadableVideo if the time is over."""
        if time.thread_time() > self.end:
            raise UnreadableVideo(
                f"{self.name} takes more than {MAX_SECONDS:.0f} s to read up to here; cut out the part you need, or "
                "scale it down."
            )


def check_side(name: str, width: int, height: int) -> None:
    """Raise UnreadableVideo if a side is too large."""
    if max(width, height) > MAX_SIDE:
        raise UnreadableVideo(
            f"{name} is {width}x{height}; sides may have at most {MAX_SIDE} pixels: scale it down first."
        )


def check_pixels(name: str, frames: int, width: int, height: int, most: int) -> None:
    """Raise UnreadableVideo if more than `most` pixels would have to be decoded."""
    if frames * width * height > most:
        raise UnreadableVideo(
            f"{name} needs {frames} frames of {width}x{height} decoded ({frames * width * height / 1e9:.1f} billion "
            f"pixels), more than the limit of {most / 1e9:.1f} billion: cut out the part you need, or scale it down."
        )


@dataclass
class VideoFile:
    """A probed video. Pictures are located on demand (`scan`) and decoded when they are read."""

    name: str
    source: bytes | Path
    width: int  # upright, in pixels; later pictures differ if the stream changes its size
    height: int
    pixel_aspect: float  # a pixel's width divided by its height; nearly always 1
    known_F: np.ndarray  # seconds from the first picture, ascending, of the pictures found so far
    fps: float  # average
    decoder: str  # source of the pictures: "decord", "pyav" or "pillow"
    notes: list[str] = field(default_factory=list)  # what was done to the pictures, for the user
    last_duration: float = 0.0  # seconds for which the last picture is shown; 0: the average time
    complete: bool = True  # whether every picture has been found

    def scan(self, until: float) -> None:
        """Find every picture that is shown up to `until` seconds.

        Raises:
            UnreadableVideo: too many pixels, or too much time.
        """

    @property
    def times_F(self) -> np.ndarray:
        """Seconds from the first picture, ascending, of all pictures; finds them all."""
        self.scan(np.inf)
        return self.known_F

    @property
    def num_frames(self) -> int:
        return len(self.times_F)

    @property
    def duration(self) -> float:
        """Seconds, including the last picture's display time."""
        return float(self.times_F[-1]) + self._last_duration()

    def _last_duration(self) -> float:
        return self.last_duration or 1 / self.fps

    def reaches(self, moment: float) -> bool:
        """Whether a picture is shown `moment` seconds after the first."""
        self.scan(moment)
        return not self.complete or moment < self.known_F[-1] + self._last_duration() - 1e-3

    def shown(self, moments: np.ndarray) -> np.ndarray:
        """Numbers (int64) of the pictures that a player shows at each moment (seconds): the last that began.

        One that begins up to 5 ms later (at most a quarter of a frame) counts as begun.
        """
        self.scan(float(np.max(moments)))
        early = min(EARLY, 0.25 * float(np.median(np.diff(self.known_F)))) if len(self.known_F) > 1 else 0.0
        return np.maximum(np.searchsorted(self.known_F, moments + early, side="right") - 1, 0)

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The pictures [H, W, 3] with these numbers, ascending (repeats allowed), one at a time.

        Raises:
            UnreadableVideo: the stream is damaged at one of them, or it takes too long.
        """
        wanted = [int(i) for i in indices]
        if not wanted:
            return iter(())
        if any(b < a for a, b in pairwise(wanted)) or wanted[0] < 0:
            raise AssertionError(f"indices must ascend from 0 on: {wanted}")
        return self._read(wanted)

    def _read(self, wanted: list[int]) -> Iterator[np.ndarray]:
        raise NotImplementedError
