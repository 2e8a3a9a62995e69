"""Any video file to RGB frames.

decord reads what it reads exactly; the rest goes to a maintained decoder, never to an error that another decoder
would not have: PyAV (FFmpeg 8: AV1, 10 bit, odd sides of subsampled video, ...) and Pillow (GIF, animated WebP,
APNG). PyAV's swscale bilinear conversion gives decord's pixels exactly for 8 bit YUV with even sides; for 10 bit
and odd sides decord's older swscale differs (up to 72 of 255), so those never go to decord. Hence one file has one
set of frames, whichever decoder is at hand; `tests/datasets/test_decode.py` holds this pixel for pixel.

Frames are upright (the phone's display matrix is applied), transparency lies on black, and they come one at a time
(`VideoFile.frames`), so that a long or 8K video needs the memory of a few frames.

    video = open_video("clip.mp4");  video.times;  for frame_HWC in video.frames([0, 3, 6]): ...
    decode("clip.mp4").frames_FHWC   # all of a short clip

Times are seconds from the first frame; shape suffixes F frames, H height, W width, C = 3 (RGB).
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from infra.errors import UserError

decord.logging.set_level(decord.logging.QUIET)
logging.getLogger("libav").setLevel(logging.CRITICAL)

MAX_SIDE = 8192  # 8K (7680x4320) passes; anything larger is refused
MAX_DECODED_BYTES = 4 << 30  # `decode` holds all frames at once; `VideoFile.frames` has no such bound
# What decord decodes to the same pixels as PyAV (measured: decord 0.6.0 against PyAV 18.1).
DECORD_PIXELS = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"}
DECORD_CODECS = {"h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video", "vp8", "vp9", "mjpeg"}
DECORD_PIXELS_EACH = 1920 * 1088  # it reads ahead without a bound: 2.6 GB for 24 frames of 8K, PyAV 0.5 GB
DECORD_CHUNK = 8  # frames per call


class UnreadableVideo(UserError):
    """The bytes are no video any decoder here reads (422 "unreadable_video"): the sentence says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=422, code="unreadable_video")


@dataclass
class DecodedVideo:
    """All frames of a clip."""

    frames_FHWC: np.ndarray
    fps: float
    times_F: np.ndarray
    decoder: str


@dataclass
class VideoFile:
    """A probed video: what it holds is known, no frame is decoded yet."""

    name: str
    source: bytes | Path
    width: int  # upright, in pixels
    height: int
    pixel_aspect: float  # width of a pixel over its height; 1 nearly always
    times_F: np.ndarray  # seconds from the first frame, ascending
    fps: float  # average
    decoder: str  # "decord", "pyav" or "pillow"

    @property
    def num_frames(self) -> int:
        return len(self.times_F)

    @property
    def duration(self) -> float:
        """Seconds, the last frame's own time included."""
        return float(self.times_F[-1]) + 1 / self.fps

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames [H, W, 3] at ascending `indices` (repeats allowed), one at a time.

        Raises:
            UnreadableVideo: the stream is damaged at or before one of them.
        """
        wanted = [int(i) for i in indices]
        if any(b < a for a, b in pairwise(wanted)) or not all(0 <= i < self.num_frames for i in wanted):
            raise AssertionError(f"indices must ascend within 0..{self.num_frames - 1}: {wanted}")
        read = {"decord": _decord_frames, "pyav": _pyav_frames, "pillow": _pillow_frames}[self.decoder]
        given = 0
        try:
            for frame in read(self, wanted):
                yield frame
                given += 1
        except (av.error.FFmpegError, OSError, EOFError) as error:
            raise UnreadableVideo(
                f"{self.name} is damaged: frame {wanted[given]} of {self.num_frames} cannot be decoded "
                f"({_first_line(error)}); give an intact file."
            ) from None
        if given < len(wanted):
            raise UnreadableVideo(
                f"{self.name} is damaged: frame {wanted[given]} of {self.num_frames} is missing; give an intact file."
            )


def open_video(
    source: bytes | str | Path, *, name: str | None = None, decoder: str | None = None
) -> VideoFile:
    """Probe a video file or its bytes.

    Args:
        name: how messages call it; the path by default.
        decoder: insist on "decord", "pyav" or "pillow" (tests compare them); by default the first that reads the
            file exactly.

    Raises:
        UnreadableVideo: missing, empty, not a video, audio only, truncated, or larger than 8192 pixels a side.
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
    if decoder == "pillow" or (decoder is None and _is_image(head)):
        video = _probe_pillow(source, name)
    else:
        video = _probe_pyav(source, name, decoder)
    if max(video.width, video.height) > MAX_SIDE:
        raise UnreadableVideo(
            f"{name} is {video.width}x{video.height}; sides above {MAX_SIDE} pixels are refused: scale it down first."
        )
    return video


def decode(
    source: bytes | str | Path, *, name: str | None = None, decoder: str | None = None
) -> DecodedVideo:
    """All frames of a short clip at once, uint8 [F, H, W, 3].

    Raises:
        UnreadableVideo: see `open_video` and `VideoFile.frames`; or over 4 GiB when decoded.
    """
    video = open_video(source, name=name, decoder=decoder)
    size = video.num_frames * video.height * video.width * 3
    if size > MAX_DECODED_BYTES:
        raise UnreadableVideo(
            f"{video.name} holds {video.num_frames} frames of {video.width}x{video.height} ({size / 2**30:.1f} GiB "
            f"decoded); at most {MAX_DECODED_BYTES / 2**30:.0f} GiB are read at once: cut or scale it first."
        )
    frames_FHWC = np.empty((video.num_frames, video.height, video.width, 3), np.uint8)
    for i, frame in enumerate(video.frames(range(video.num_frames))):
        frames_FHWC[i] = frame
    return DecodedVideo(frames_FHWC, video.fps, video.times_F, video.decoder)


def _first_line(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__


# --- PyAV and decord -------------------------------------------------------------------------------------------


def _av_input(source: bytes | Path) -> Any:
    return io.BytesIO(source) if isinstance(source, bytes) else str(source)


def _probe_pyav(source: bytes | Path, name: str, decoder: str | None) -> VideoFile:
    """Read every packet's time (no decoding) and the first frame (for size, rotation and pixel format)."""
    try:
        with av.open(_av_input(source)) as container:
            if not container.streams.video:
                what = "only audio" if container.streams.audio else "no video stream"
                raise UnreadableVideo(f"{name} holds {what}; give a file with a video stream.")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise UnreadableVideo(
                    f"{name} has a video stream of a codec that FFmpeg does not know; convert it, to H.264 for one."
                )
            promised, codec = stream.frames, stream.codec_context.codec.canonical_name
            promised_seconds = _promised_seconds(container)
            packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
            time_base, rate = stream.time_base, stream.average_rate
            aspect = float(stream.sample_aspect_ratio or 1) or 1.0
            pts = [p.pts for p in packets]
            damaged = any(p.is_corrupt for p in packets)
            del packets
        with av.open(_av_input(source)) as container:
            first = next(container.decode(video=0), None)
    except av.error.FFmpegError as error:
        raise UnreadableVideo(
            f"{name} is not a readable video ({_first_line(error)}); give an intact mp4, webm, mov, avi, mkv, gif or "
            "webp."
        ) from None
    if first is None or not pts:
        raise UnreadableVideo(f"{name} holds no frame; give a video with at least two.")
    if damaged or promised > len(pts) + 1:  # some muxers count one frame that an edit list hides
        raise UnreadableVideo(
            f"{name} is truncated: its header promises {max(promised, len(pts))} frames, {len(pts)} are there; "
            "give the whole file."
        )
    known = [p for p in pts if p is not None]
    if len(known) == len(pts) and len(set(pts)) == len(pts) and time_base:
        ticks = np.sort(np.array(known, dtype=np.int64))
        times_F = (ticks - ticks[0]) * float(time_base)
    else:  # AVI stores no times, only a rate
        times_F = np.arange(len(pts)) / float(rate or 25)
    fps = (len(times_F) - 1) / times_F[-1] if len(times_F) > 1 else float(rate or 25)
    end = (
        float(times_F[-1])
        + 1 / fps
        + (max(0.0, min(known) * float(time_base)) if known and time_base else 0.0)
    )
    if promised_seconds > end + max(0.25, 0.05 * promised_seconds):
        raise UnreadableVideo(
            f"{name} is truncated: its header promises {promised_seconds:.1f} s, {end:.1f} s are there; give the whole "
            "file."
        )
    if rate and abs(fps - float(rate)) < 0.02 * fps:
        fps = float(rate)  # 29.97 rather than 29.9683
    turned = first.rotation % 180 != 0
    video = VideoFile(
        name=name,
        source=source,
        width=first.height if turned else first.width,
        height=first.width if turned else first.height,
        pixel_aspect=1 / aspect if turned else aspect,
        times_F=times_F,
        fps=float(fps),
        decoder="pyav",
    )
    exact = first.format.name in DECORD_PIXELS and codec in DECORD_CODECS
    exact = exact and first.width % 2 == 0 and first.height % 2 == 0
    light = first.width * first.height <= DECORD_PIXELS_EACH
    if decoder == "decord" or (decoder is None and exact and light and _decord_agrees(video)):
        video.decoder = "decord"
    return video


def _promised_seconds(container: Any) -> float:
    """How long the header says the video is: Matroska's tag, else the file's length where it holds nothing else."""
    tag = container.streams.video[0].metadata.get("DURATION", "")
    if match := re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", tag):
        return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0


def _decord_reader(video: VideoFile) -> Any:
    return decord.VideoReader(_av_input(video.source), num_threads=2)


def _decord_agrees(video: VideoFile) -> bool:
    """Whether decord opens the file and sees the same frames (it knows no edit lists, for one)."""
    try:
        reader = _decord_reader(video)
        return len(reader) == video.num_frames and reader[0].shape == (video.height, video.width, 3)
    except (decord.DECORDError, RuntimeError, OSError):
        return False


def _decord_frames(video: VideoFile, wanted: list[int]) -> Iterator[np.ndarray]:
    given = 0
    try:
        reader = _decord_reader(video)
        for start in range(0, len(wanted), DECORD_CHUNK):
            for frame in reader.get_batch(wanted[start : start + DECORD_CHUNK]).asnumpy():
                yield frame
                given += 1
    except decord.DECORDError:  # it reads ahead, and damage there fails intact frames here
        yield from _pyav_frames(video, wanted[given:])


def _pyav_frames(video: VideoFile, wanted: list[int]) -> Iterator[np.ndarray]:
    """Decode from the start: seeking is exact only where containers are honest about key frames."""
    remaining = iter(wanted)
    target = next(remaining, None)
    with av.open(_av_input(video.source)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = 2  # each thread holds a frame: 100 MB at 8K
        for i, frame in enumerate(container.decode(video=0)):
            if target is None:
                return
            if i != target:
                continue
            rgb = frame.reformat(format="rgb24", interpolation="BILINEAR").to_ndarray()
            quarter_turns = round(frame.rotation / 90) % 4
            rgb = np.ascontiguousarray(np.rot90(rgb, quarter_turns)) if quarter_turns else rgb
            while target == i:
                yield rgb
                target = next(remaining, None)


# --- Pillow: GIF, animated WebP, APNG --------------------------------------------------------------------------


def _is_image(head: bytes) -> bool:
    return (
        head[:6] in (b"GIF87a", b"GIF89a")
        or head[:8] == b"\x89PNG\r\n\x1a\n"
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
    )


def _pillow_input(source: bytes | Path) -> Any:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _probe_pillow(source: bytes | Path, name: str) -> VideoFile:
    try:
        with Image.open(_pillow_input(source)) as image:
            width, height = image.size
            if max(width, height) > MAX_SIDE:
                durations = [0.1]  # refused by the caller: do not decode it
            else:
                # Browsers show a frame of 10 ms or less, and one without a time, for 100 ms.
                durations = []
                for frame in ImageSequence.Iterator(image):
                    frame.load()  # WebP knows a frame's time, and damage shows, once it is decoded
                    ms = frame.info.get("duration", 0)
                    durations.append(ms / 1000 if ms > 10 else 0.1)
    except Image.DecompressionBombError:  # by its header; nothing was decoded
        raise UnreadableVideo(
            f"{name} says it is far larger than {MAX_SIDE}x{MAX_SIDE}; sides above {MAX_SIDE} pixels are refused: scale "
            "it down first."
        ) from None
    except (UnidentifiedImageError, OSError, EOFError, SyntaxError, ValueError) as error:
        raise UnreadableVideo(
            f"{name} is not a readable animation ({_first_line(error)}); give an intact gif or webp."
        ) from None
    times_F = np.concatenate([[0.0], np.cumsum(durations)[:-1]])
    return VideoFile(name, source, width, height, 1.0, times_F, len(durations) / sum(durations), "pillow")


def _pillow_frames(video: VideoFile, wanted: list[int]) -> Iterator[np.ndarray]:
    with Image.open(_pillow_input(video.source)) as image:
        for i in wanted:
            image.seek(i)
            rgba = image.convert("RGBA")
            canvas = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
            yield np.array(Image.alpha_composite(canvas, rgba).convert("RGB"))
