"""Makes videos with PyAV and Pillow in common formats."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image


def moving_picture(num_frames: int, height: int, width: int, seed: int = 0, step: int = 5) -> np.ndarray:
    """A smooth random texture that slides sideways: uint8 [F, H, W, 3]."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    return np.stack([np.roll(picture, i * step, axis=1) for i in range(num_frames)])


def write_video(
    path: Path,
    frames_FHWC: np.ndarray,
    *,
    codec: str = "libx264",
    fps: int = 12,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    ticks: list[int] | None = None,
    sound_seconds: float = 0.0,
) -> Path:
    """Write an ordinary file like a camera or a tool does (not with this project's encoder).

    `ticks` are the frames' times in 1/fps seconds, by default 0, 1, 2, ...
    """
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = frames_FHWC.shape[1], frames_FHWC.shape[2], pixels
        stream.codec_context.options = options or {}
        sound = output.add_stream("aac", rate=44100, layout="mono") if sound_seconds else None
        for i, frame in enumerate(frames_FHWC):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = (ticks[i] if ticks else i), Fraction(1, fps)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
        if sound is not None:
            write_silence(output, sound, sound_seconds)
    return path


def write_silence(output: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    """Write silence to an open file."""
    for i in range(int(seconds * 44100 / 1024)):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, i * 1024
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def write_sound(path: Path, seconds: float = 1.0) -> Path:
    """Write an mp4 that has only audio."""
    with av.open(str(path), "w") as output:
        write_silence(output, output.add_stream("aac", rate=44100, layout="mono"), seconds)
    return path


def write_animation(path: Path, frames_FHWC: np.ndarray, *, duration_ms: int = 80) -> Path:
    """Write a GIF or an animated, lossless WebP."""
    images = [Image.fromarray(frame) for frame in frames_FHWC]
    if path.suffix == ".gif":  # Pillow's default quantization takes a quarter second per frame
        images = [image.quantize(256, Image.Quantize.FASTOCTREE) for image in images]
    extra = {"lossless": True} if path.suffix == ".webp" else {}
    images[0].save(path, save_all=True, append_images=images[1:], duration=duration_ms, loop=0, **extra)
    return path


def turn(path: Path, degrees: int) -> Path:
    """Write a display matrix to an mp4, like a phone held sideways does."""
    one, data = 1 << 16, bytearray(path.read_bytes())
    matrix = {
        90: (0, one, 0, -one, 0, 0, 0, 0, 1 << 30),
        180: (-one, 0, 0, 0, -one, 0, 0, 0, 1 << 30),
        270: (0, -one, 0, one, 0, 0, 0, 0, 1 << 30),
    }[degrees]
    start = data.find(b"tkhd") + 44
    data[start : start + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)
    return path
