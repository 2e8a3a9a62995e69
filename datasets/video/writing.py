"""Writes frames to files for people: mp4 (H.264) and contact sheets.

Every mp4 of this project (ingested clips, training samples, the service's answers) comes from
`encode_mp4`. All are bitwise reproducible: one encoder thread, no clock, no build string in the
container. The container's metadata says what made the video (prompt, adapter hash, seed);
`read_metadata` or `ffprobe -show_format` reads it back.

    mp4 = encode_mp4(frames_FHWC, fps=8, metadata={"prompt": "a bear is running"})
    contact_sheet([("a bear is running", frames_FHWC)]).save("sheet.png")

Shape suffixes: F frames, H height, W width, C = 3 channels (RGB).
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image, ImageDraw, ImageFont

from infra.errors import InvalidInput, UserError
from infra.files import atomic_file

# x264 constant rate factors: 14 looks the same as the source (ingested clips); 18 is for viewing.
CRF_CLIP = 14
CRF_VIEW = 18
# x264's macroblock tree reads uninitialized memory (its AVX paths, for widths off their stride). 40
# encodings of one 192x192 clip gave 36 different files with it, and a single one without it.
REPEATABLE = {"threads": "1", "x264-params": "mbtree=0"}


def check_frames(frames_FHWC: np.ndarray) -> None:
    """Raise InvalidInput ("invalid_frames") unless this is a uint8 RGB video with even sides."""
    shape, dtype = getattr(frames_FHWC, "shape", None), getattr(frames_FHWC, "dtype", None)
    if dtype != np.uint8 or shape is None or len(shape) != 4 or shape[-1] != 3 or 0 in shape:
        raise InvalidInput(
            f"frames of shape {shape} and type {dtype} are not a video; expected uint8 [frames, height, width, 3].",
            code="invalid_frames",
        )
    if shape[1] % 2 or shape[2] % 2:
        raise InvalidInput(
            f"a video of {shape[2]}x{shape[1]} cannot be written as mp4 (4:2:0); give an even width and height.",
            code="invalid_frames",
        )


def encode_mp4(
    frames_FHWC: np.ndarray,
    fps: float,
    path: str | Path | None = None,
    *,
    metadata: Mapping[str, str] | None = None,
    crf: int = CRF_VIEW,
    lossless: bool = False,
) -> bytes:
    """Encode a uint8 RGB video [F, H, W, 3] as H.264 mp4 (yuv420p, BT.601); also write it to `path` if given.

    The same frames, fps, metadata and crf give the same bytes (with the same PyAV wheel). `metadata` keys and
    values are text and are stored in the container in sorted order.

    Args:
        lossless: keep every value of red, green and blue, in place of `crf`. Not every player shows such a file
            (profile High 4:4:4 Predictive); FFmpeg, and so every reader of clips here, does.

    Raises:
        InvalidInput: not a video, odd sides, or an invalid fps.
    """
    check_frames(frames_FHWC)
    if not 0 < fps < 1000:
        raise InvalidInput(
            f"fps {fps} is not a frame rate; expected a number above 0 and below 1000.", code="invalid_frames"
        )
    buffer = io.BytesIO()
    options = {"movflags": "use_metadata_tags", "fflags": "+bitexact"}
    with av.open(buffer, "w", format="mp4", options=options) as container:
        container.metadata.update({key: str(value) for key, value in sorted((metadata or {}).items())})
        rate, codec = Fraction(fps).limit_denominator(1001), "libx264rgb" if lossless else "libx264"
        stream: Any = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames_FHWC.shape[1:3]
        stream.pix_fmt = "rgb24" if lossless else "yuv420p"
        quality = {"qp": "0"} if lossless else {"crf": str(crf)}
        stream.codec_context.options = {**quality, "preset": "medium", **REPEATABLE}
        if not lossless:
            stream.codec_context.colorspace = Colorspace.SMPTE170M
            stream.codec_context.color_range = ColorRange.MPEG
        for frame_HWC in frames_FHWC:
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
            if lossless:
                container.mux(stream.encode(rgb))
                continue
            yuv = rgb.reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.SMPTE170M,
                dst_color_range=ColorRange.MPEG,
                interpolation="BICUBIC",
                threads=1,
            )
            container.mux(stream.encode(yuv))
        container.mux(stream.encode(None))
    data = buffer.getvalue()
    if path is not None:
        with atomic_file(Path(path)) as partial:
            partial.write_bytes(data)
    return data


def read_metadata(source: bytes | str | Path) -> dict[str, str]:
    """The metadata stored by `encode_mp4`, and the container's own (such as `major_brand`)."""
    opened = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    with av.open(opened) as container:
        return dict(container.metadata)


def contact_sheet(
    rows: Sequence[tuple[str, np.ndarray]], *, columns: int = 8, cell_width: int = 128
) -> Image.Image:
    """A picture of videos: one row each, its label above a strip of `columns` frames spread evenly over time.

    Args:
        rows: (label, frames [F, H, W, 3] uint8); videos may differ in size and length. A video with
            fewer frames than `columns` shows each once.
        columns: frames shown of each video, including first and last.
        cell_width: width of one frame in the sheet, in pixels; heights keep each video's aspect.
    """
    if not rows:
        raise UserError(
            "a contact sheet was requested without videos; give at least one video.", code="invalid_frames"
        )
    font = ImageFont.load_default(size=13)
    gap, line = 4, 18
    strips: list[tuple[list[str], list[Image.Image]]] = []
    for label, frames in rows:
        picks = np.unique(np.linspace(0, len(frames) - 1, columns).round().astype(int))
        cell_height = max(1, round(cell_width * frames.shape[1] / frames.shape[2]))
        resample = Image.Resampling.NEAREST if frames.shape[2] * 2 <= cell_width else Image.Resampling.LANCZOS
        cells = [Image.fromarray(frames[i]).resize((cell_width, cell_height), resample) for i in picks]
        text = textwrap.wrap(label, max(20, columns * (cell_width + gap) // 7)) or [""]
        strips.append((text, cells))
    width = gap + columns * (cell_width + gap)
    height = gap + sum(line * len(text) + cells[0].height + 2 * gap for text, cells in strips)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    y = gap
    for text, cells in strips:
        for part in text:
            draw.text((gap, y), part, fill="black", font=font)
            y += line
        for column, cell in enumerate(cells):
            sheet.paste(cell, (gap + column * (cell_width + gap), y))
        y += cells[0].height + 2 * gap
    return sheet
