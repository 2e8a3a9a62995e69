"""Decodes any video file to RGB frames.

    video = open_video("clip.mp4");  video.times_F;  for frame_HWC in video.frames([0, 3, 6]): ...
    decode("clip.mp4").frames_FHWC   # all of a short clip

FFmpeg (PyAV) decodes strictly and determines the pictures and their times (`datasets/video/avvideo.py`). The
pictures themselves come from decord if it gives the same ones, otherwise from PyAV. Pillow reads GIF,
animated WebP and APNG (`datasets/video/animation.py`).

Frames are upright (the display matrix is applied), progressive and SDR, with transparency on black.
They come one at a time (`VideoFile.frames`), so a long or 8K video needs memory for only a few frames.

Times are seconds from the first picture shown; shape suffixes F frames, H height, W width, C = 3 (RGB).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.video.animation import is_animation, open_animation
from datasets.video.avvideo import open_av_video
from datasets.video.videofile import MAX_SIDE, UnreadableVideo, VideoFile

__all__ = ["MAX_SIDE", "DecodedVideo", "UnreadableVideo", "VideoFile", "decode", "open_video"]

MAX_DECODED_BYTES = 4 << 30  # `decode` holds all frames at once; `VideoFile.frames` has no such limit


@dataclass
class DecodedVideo:
    """All frames of a clip."""

    frames_FHWC: np.ndarray
    fps: float
    times_F: np.ndarray
    decoder: str


def open_video(
    source: bytes | str | Path, *, name: str | None = None, decoder: str | None = None
) -> VideoFile:
    """Probe a video file or its bytes: read the header and the index, decode one picture.

    Args:
        name: used in messages; by default the path.
        decoder: "pyav" excludes decord (tests compare the two).

    Raises:
        UnreadableVideo: missing, empty, not a video, audio only, truncated, or a side above 8192 pixels.
    """
    if not isinstance(source, bytes):
        source = Path(source)
        name = name or str(source)
        if source.is_dir() or not source.exists():
            what = "is a folder" if source.is_dir() else "does not exist"
            raise UnreadableVideo(f"{name} {what}; give a video file.")
        try:
            empty = source.stat().st_size == 0
            with source.open("rb") as file:
                head = file.read(64)
        except OSError as error:
            raise UnreadableVideo(
                f"{name} cannot be opened ({error.strerror}); check its permissions."
            ) from None
    else:
        name = name or "the video"
        empty, head = not source, source[:64]
    if empty:
        raise UnreadableVideo(f"{name} is empty (0 bytes); give a video file.")
    if is_animation(head):
        return open_animation(source, name)
    return open_av_video(source, name, with_decord=decoder != "pyav")


def decode(
    source: bytes | str | Path, *, name: str | None = None, decoder: str | None = None
) -> DecodedVideo:
    """All frames of a short clip at once, uint8 [F, H, W, 3].

    Raises:
        UnreadableVideo: as `open_video` and `VideoFile.frames`, or over 4 GiB when decoded.
    """
    video = open_video(source, name=name, decoder=decoder)
    most = MAX_DECODED_BYTES // (video.height * video.width * 3)
    video.scan(most / video.fps)  # no further: a longer one is refused
    if not video.complete or len(video.known_F) > most:
        raise UnreadableVideo(
            f"{video.name} has more than {most} frames of {video.width}x{video.height}, which exceeds the limit of "
            f"{MAX_DECODED_BYTES / 2**30:.0f} GiB; cut it or scale it down first."
        )
    frames_FHWC = np.empty((video.num_frames, video.height, video.width, 3), np.uint8)
    for i, frame in enumerate(video.frames(range(video.num_frames))):
        if frame.shape != frames_FHWC.shape[1:]:  # a call's stream shrinks on a bad connection
            frame = np.asarray(Image.fromarray(frame).resize((video.width, video.height)))
        frames_FHWC[i] = frame
    return DecodedVideo(frames_FHWC, video.fps, video.times_F, video.decoder)
