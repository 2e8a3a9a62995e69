"""Pictures of videos for a page: frame strips, small animations, and frames with measured trajectories.

They are data URIs (WebP), so that a page is one file. Shapes: F frames, H and W pixels, C = 3 colours, uint8.
"""

from __future__ import annotations

import base64
import io
from itertools import pairwise
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw

from datasets.sprites.track import track

PIXEL_ART = 64  # up to this height, frames are enlarged without smoothing and stored losslessly
SMOOTH = 4  # supersampling factor of lines, because Pillow does not antialias them


class Positions(Protocol):
    """Positions of an object by frame, in frame widths; nan if not found (datasets.sprites.track.Track)."""

    @property
    def x(self) -> np.ndarray: ...

    @property
    def y(self) -> np.ndarray: ...


def draw_trajectory(frames_FHWC: np.ndarray, track: Positions, *, enlarge: int = 2) -> np.ndarray:
    """Draw the measured path over each enlarged frame, with a dot at the object's position in that frame.

    Frames without a found object have no dot and break the line. Returns [F, H * enlarge, W * enlarge, 3].
    """
    count, height, width, _ = frames_FHWC.shape
    size = (width * enlarge, height * enlarge)
    # both axes in frame widths, as the tracker measures
    points = np.stack([track.x, track.y], 1) * width * enlarge * SMOOTH
    thin, thick = enlarge * SMOOTH * 0.75, enlarge * SMOOTH * 1.9
    drawn = np.empty((count, size[1], size[0], 3), np.uint8)
    for index in range(count):
        overlay = Image.new("RGBA", (size[0] * SMOOTH, size[1] * SMOOTH), (0, 0, 0, 0))
        pen = ImageDraw.Draw(overlay)
        # dark below light, so that the line is visible on any background
        for stroke, colour in ((thick, (0, 0, 0, 170)), (thin, (255, 255, 255, 255))):
            for start, end in pairwise(points):
                if np.isfinite(start).all() and np.isfinite(end).all():
                    pen.line([tuple(start), tuple(end)], fill=colour, width=max(1, round(stroke)))
        here = points[index]
        if np.isfinite(here).all():
            for radius, colour in ((thick * 1.35, (255, 255, 255, 255)), (thick, (255, 64, 129, 255))):
                pen.ellipse([*(here - radius), *(here + radius)], fill=colour)
        frame = Image.fromarray(frames_FHWC[index]).resize(size, Image.Resampling.NEAREST).convert("RGBA")
        frame.alpha_composite(overlay.resize(size, Image.Resampling.LANCZOS))
        drawn[index] = np.asarray(frame.convert("RGB"))
    return drawn


def traced(frames_FHWC: np.ndarray) -> np.ndarray:
    """The frames at twice the size with the sprite's measured path; unchanged if no sprite is found."""
    if frames_FHWC.shape[1] != frames_FHWC.shape[2]:
        return frames_FHWC
    seen = track(frames_FHWC)
    return draw_trajectory(frames_FHWC, seen) if seen.found.sum() >= 2 else frames_FHWC


def strip_uri(frames_FHWC: np.ndarray, columns: int = 8, height: int = 64) -> str:
    """At most `columns` frames spread over time, side by side, as a data URI. `height` in pixels."""
    picks = np.unique(np.linspace(0, len(frames_FHWC) - 1, columns).round().astype(int))
    cells = [_scaled(frames_FHWC[index], height) for index in picks]
    width = cells[0].width + 2
    sheet = Image.new("RGBA", (len(cells) * width - 2, height))
    for column, cell in enumerate(cells):
        sheet.paste(cell, (column * width, 0))
    return _webp(sheet, lossless=frames_FHWC.shape[1] <= PIXEL_ART)


def animation_uri(frames_FHWC: np.ndarray, fps: float, height: int = 64) -> str:
    """The video as a looping animation, as a data URI."""
    cells = [_scaled(frame, height) for frame in frames_FHWC]
    return _webp(
        cells[0],
        lossless=frames_FHWC.shape[1] <= PIXEL_ART,
        save_all=True,
        append_images=cells[1:],
        duration=round(1000 / fps),
        loop=0,
    )


def _scaled(frame_HWC: np.ndarray, height: int) -> Image.Image:
    width = max(1, round(height * frame_HWC.shape[1] / frame_HWC.shape[0]))
    art = frame_HWC.shape[0] <= PIXEL_ART and height >= frame_HWC.shape[0]
    resample = Image.Resampling.NEAREST if art else Image.Resampling.LANCZOS
    return Image.fromarray(frame_HWC).resize((width, height), resample)


def _webp(image: Image.Image, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=86, method=4, **options)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
