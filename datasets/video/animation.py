"""Reads GIF, animated WebP and APNG with Pillow."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from datasets.video.videofile import (
    MAX_SIDE,
    ON_BLACK,
    Clock,
    UnreadableVideo,
    VideoFile,
    check_pixels,
    check_side,
)

MAX_ANIMATION_PIXELS = 1 << 30  # total over all frames: 500 of full HD; Pillow composes 30 million a second


def is_animation(head: bytes) -> bool:
    """Whether a file with these first bytes is a GIF, PNG or WebP, which Pillow reads."""
    return (
        head[:6] in (b"GIF87a", b"GIF89a")
        or head[:8] == b"\x89PNG\r\n\x1a\n"
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
    )


def open_animation(source: bytes | Path, name: str) -> VideoFile:
    """Open an animation. Decodes every frame once, since only this gives WebP frame times and reveals damage.

    Raises:
        UnreadableVideo: damaged, truncated, or too large according to its header.
    """
    clock = Clock(name)
    try:
        with Image.open(_input(source)) as image:
            width, height = image.size
            check_side(name, width, height)
            count = getattr(image, "n_frames", 1)
            check_pixels(name, count, width, height, MAX_ANIMATION_PIXELS)
            durations, transparent = [], False
            for i in range(count):
                clock.check()
                image.seek(i)
                image.load()
                transparent = transparent or is_transparent(image)
                # Browsers show a frame of 10 ms or less, and one without a time, for 100 ms.
                ms = image.info.get("duration", 0)
                durations.append(ms / 1000 if ms > 10 else 0.1)
    except Image.DecompressionBombError:  # raised from the header, before anything is decoded
        raise UnreadableVideo(
            f"{name} is far larger than {MAX_SIDE}x{MAX_SIDE} pixels, according to its header; scale it down first."
        ) from None
    except (UnidentifiedImageError, OSError, EOFError, SyntaxError, ValueError) as error:
        raise UnreadableVideo(
            f"{name} is not a readable animation ({first_line(error)}); give an intact gif or webp."
        ) from None
    times_F = np.concatenate([[0.0], np.cumsum(durations)[:-1]])
    fps = len(durations) / sum(durations)
    notes = [ON_BLACK] if transparent else []
    return Animation(
        name, source, width, height, 1.0, times_F, fps, "pillow", notes=notes, last_duration=durations[-1]
    )


def is_transparent(image: Image.Image) -> bool:
    """Whether any pixel of the frame is not opaque."""
    if not image.has_transparency_data:
        return False
    return bool(np.asarray(image.convert("RGBA").getchannel("A")).min() < 255)


def composed(image: Image.Image) -> np.ndarray:
    """The picture as RGB, uint8 [H, W, 3], composed over black where it is not opaque."""
    rgba = image.convert("RGBA")
    canvas = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
    return np.array(Image.alpha_composite(canvas, rgba).convert("RGB"))


class Animation(VideoFile):
    """An animation whose frames have all been decoded once."""

    def _read(self, wanted: list[int]) -> Iterator[np.ndarray]:
        clock = Clock(self.name)
        with Image.open(_input(self.source)) as image:
            for i in wanted:
                clock.check()
                image.seek(i)
                yield composed(image)


def first_line(error: BaseException) -> str:
    """A decoder error's message in one line."""
    text = getattr(error, "strerror", None) or str(error)
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__


def _input(source: bytes | Path) -> Any:
    return io.BytesIO(source) if isinstance(source, bytes) else source
