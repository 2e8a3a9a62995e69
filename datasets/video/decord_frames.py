"""Reads pictures with decord, which can seek, from files for which it returns what FFmpeg shows.

decord numbers packets, not pictures, and ignores edit lists, hidden frames and damage. So it is used
only if every packet gives one picture (`datasets/video/avvideo.py` decides), all its stamps equal the
packets', and its first picture equals FFmpeg's in every pixel.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import decord
import numpy as np

decord.logging.set_level(decord.logging.QUIET)

CHUNK = 8  # frames per call


class DecordUnsure(Exception):
    """decord failed at a frame; another decoder may succeed."""


def decord_agrees(source: bytes | Path, stamps_F: np.ndarray, first_HWC: np.ndarray) -> bool:
    """Whether decord opens the file and finds these stamps (seconds) and this first picture."""
    try:
        reader = _open(source)
        if len(reader) != len(stamps_F):
            return False
        begin_F = reader.get_frame_timestamp(range(len(reader)))[:, 0]
        same = np.abs((begin_F - begin_F[0]) - (stamps_F - stamps_F[0])).max() < 1e-3
        return bool(same) and np.array_equal(reader[0].asnumpy(), first_HWC)
    except (decord.DECORDError, RuntimeError, OSError):
        return False


def decord_frames(source: bytes | Path, wanted: list[int]) -> Iterator[np.ndarray]:
    """The pictures [H, W, 3] with these numbers, in order.

    Raises:
        DecordUnsure: it cannot return the next one.
    """
    try:
        reader = _open(source)
        for start in range(0, len(wanted), CHUNK):
            yield from reader.get_batch(wanted[start : start + CHUNK]).asnumpy()
    except (decord.DECORDError, RuntimeError, OSError) as error:
        raise DecordUnsure(str(error)) from None


def _open(source: bytes | Path) -> Any:
    given = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    return decord.VideoReader(given, num_threads=2)
