"""Reads video files with FFmpeg (PyAV); pictures come from PyAV or decord.

There are three passes, each as far as needed. The index reads every packet's stamps without decoding
and gives the file's size and length. The scan decodes strictly and finds which pictures are shown,
when, and which of them damage may affect (packets and pictures do not match one to one). Reading
decodes again and returns the requested pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from datasets.video.animation import first_line
from datasets.video.avstream import (
    Decoded,
    choose_stream,
    decoded,
    has_alpha_layer,
    is_hidden,
    is_intra,
    open_container,
)
from datasets.video.containers import ends_early
from datasets.video.decord_frames import DecordUnsure, decord_agrees, decord_frames
from datasets.video.picture import FAST, HDR, Painter, deinterlaced, is_hdr, look_of
from datasets.video.stamps import shown_at
from datasets.video.videofile import (
    MAX_PIXELS,
    MAX_SIDE,
    ON_BLACK,
    Clock,
    UnreadableVideo,
    VideoFile,
    check_pixels,
    check_side,
)

LOOK_AHEAD = 3  # later pictures that must be seen before no earlier one is expected

# Codecs that decord decodes to the same pixels as PyAV (measured: decord 0.6.0 against PyAV 18.1).
DECORD_CODECS = {"h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video", "vp8", "vp9", "mjpeg"}
DECORD_PIXELS_EACH = 1920 * 1088  # decord reads ahead without limit: 2.6 GB for 24 frames of 8K, PyAV 0.5 GB


@dataclass
class Index:
    """What is known of a stream from its packets, without decoding."""

    container: str
    stream: int
    codec: str
    time_base: Fraction
    rate: float  # pictures per second, average
    aspect: float
    alone: bool  # no other video stream
    alpha_layer: bool
    size: tuple[int, int]  # from the header
    pts: list[int] = field(default_factory=list)  # of packets that give a picture, ascending
    keys: set[int] = field(default_factory=set)  # stamps of key frames among them, according to the container
    whole: bool = True  # begins with a key frame, not inside a group of pictures
    plain: bool = True  # one picture per packet, each with its own stamp, none before its key frame

    def as_decord(self, first: Any) -> bool:
        """Whether decord may decode the stream, judging by its structure and first frame."""
        exact = first.format.name in FAST and self.codec in DECORD_CODECS
        even = first.width % 2 == 0 and first.height % 2 == 0
        light = first.width * first.height <= DECORD_PIXELS_EACH
        usual = not (is_hdr(first) or first.interlaced_frame or self.alpha_layer)
        return exact and even and light and usual and self.alone and self.plain


def open_av_video(source: bytes | Path, name: str, *, with_decord: bool) -> AvVideo:
    """Open and probe a file.

    Raises:
        UnreadableVideo: no video, truncated, too large, or without any intact picture.
    """
    if ends_early(source):
        raise UnreadableVideo(
            f"{name} is truncated: its last part is longer than the file; give the whole file."
        )
    clock = Clock(name)
    try:
        index = read_index(source, name, clock)
        first = next(
            (item.frame for item in decoded(source, index.stream, clock, whole=index.whole) if item.intact),
            None,
        )
    except av.error.FFmpegError as error:
        raise UnreadableVideo(
            f"{name} is not a readable video ({first_line(error)}); give an intact mp4, webm, mov, avi, mkv, gif or "
            "webp."
        ) from None
    if first is None:
        raise UnreadableVideo(
            f"{name} has no frame that can be decoded, or frames above {MAX_SIDE}x{MAX_SIDE}; give an intact video, "
            "scaled down if necessary."
        )
    check_side(name, first.width, first.height)
    return AvVideo(source, name, index, first, with_decord=with_decord)


def read_index(source: bytes | Path, name: str, clock: Clock) -> Index:
    """Choose the stream that is shown and read its packets.

    Raises:
        UnreadableVideo: no video stream, too large according to the header, or a packet is cut off.
        av.error.FFmpegError: FFmpeg cannot read it.
    """
    with open_container(source) as container:
        stream = choose_stream(container, name)
        check_side(name, stream.width, stream.height)
        index = Index(
            container=container.format.name,
            stream=stream.index,
            codec=stream.codec_context.codec.canonical_name,
            time_base=stream.time_base,
            rate=float(stream.average_rate or 25),
            aspect=float(stream.sample_aspect_ratio or 1) or 1.0,
            alone=len(container.streams.video) == 1,
            alpha_layer=has_alpha_layer(stream),
            size=(stream.width, stream.height),
        )
        index.plain = index.container != "avi"  # its stamps are chunk numbers
        key_pts: int | None = None
        complete, last = True, 0
        for packet in container.demux(stream):
            if len(index.pts) % 1024 == 0:
                clock.check()
            if not packet.size:  # AVI: the previous picture repeats; otherwise the end
                continue
            complete = not packet.is_corrupt
            if not index.pts:
                index.whole = packet.is_keyframe
            if packet.is_discard or is_hidden(packet, index.codec):
                index.plain = False
                continue
            pts = packet.pts if packet.pts is not None else packet.dts
            if pts is None:  # a raw stream: only its rate is known
                pts, index.plain = last + round(1 / (index.rate * float(index.time_base))), False
            if packet.is_keyframe:
                key_pts = pts
                index.keys.add(pts)
            index.plain = index.plain and complete and key_pts is not None and pts >= key_pts
            index.pts.append(last := pts)
    if not index.pts:
        raise UnreadableVideo(f"{name} has no frames; give a video with at least two.")
    if not complete:
        raise UnreadableVideo(f"{name} is truncated: its last frame is incomplete; give the whole file.")
    index.pts.sort()
    span = (index.pts[-1] - index.pts[0]) * float(index.time_base)
    if span > 0 and len(index.pts) > 1:
        average = (len(index.pts) - 1) / span
        if abs(average - index.rate) >= 0.02 * average:  # else keep 29.97 rather than 29.9683
            index.rate = average
    index.plain = index.plain and len(set(index.pts)) == len(index.pts)
    return index


class AvVideo(VideoFile):
    """A file whose stream FFmpeg decodes."""

    def __init__(
        self, source: bytes | Path, name: str, index: Index, first: Any, *, with_decord: bool
    ) -> None:
        bitmaps = index.codec == "rawvideo" and index.container == "avi"  # their fourth byte has no meaning
        self.painter = Painter(first, name, as_decord=index.as_decord(first), ignores_alpha=bitmaps)
        turned = self.painter.matrix.transposed
        super().__init__(
            name=name,
            source=source,
            width=first.height if turned else first.width,
            height=first.width if turned else first.height,
            pixel_aspect=1 / index.aspect if turned else index.aspect,
            known_F=np.empty(0),
            fps=index.rate,
            decoder="pyav",
            complete=False,
        )
        self.index = index
        self.clock = Clock(name)
        self.interlaced = False
        self.intact: list[bool] = []
        self._pts: list[int | None] = []
        self._dts: list[int | None] = []
        self._looks: list[np.ndarray] = []
        self._steady = True
        self._first_size = (first.width, first.height)
        self._scan: Iterator[Decoded] | None = None
        self._cursor: tuple[int, Iterator[tuple[int, Any]]] | None = (
            None  # the next number, and the iterator that gives it
        )
        if is_hdr(first):
            self.notes.append(f"HDR ({HDR[first.color_trc]}): tone-mapped to SDR (BT.709)")
        if self.painter.is_transparent(first):
            self.notes.append(ON_BLACK)
        if with_decord and self.painter.as_decord:
            shown = self.painter.paint(first)
            if decord_agrees(source, np.array(index.pts) * float(index.time_base), shown):
                self.decoder = "decord"

    # --- which pictures there are ---

    def scan(self, until: float) -> None:
        if self._found(until):
            return
        self.clock.restart()
        base = float(self.index.time_base)
        if np.isfinite(until):
            last = self.index.pts[0] + until / base
            frames = int(np.searchsorted(self.index.pts, last, side="right"))
            check_pixels(self.name, frames, *self.index.size, MAX_PIXELS)
        if self._scan is None:
            self._scan = decoded(self.source, self.index.stream, self.clock, whole=self.index.whole)
        try:
            while not self._found(until):
                self._scan_some(until)
        except av.error.FFmpegError as error:
            raise UnreadableVideo(
                f"{self.name} is damaged after frame {len(self._pts)} ({first_line(error)}); give an intact file."
            ) from None

    def _found(self, until: float) -> bool:
        enough = len(self.known_F) > LOOK_AHEAD and until < self.known_F[-LOOK_AHEAD]
        return self.complete or bool(enough)

    def _scan_some(self, until: float) -> None:
        """Decode until some pictures are later than `until`, or to the end; then compute display times."""
        assert self._scan is not None
        base, later, duration = float(self.index.time_base), 0, 0
        while later < LOOK_AHEAD:
            item = next(self._scan, None)
            if item is None:
                self.complete = True
                break
            self._pts.append(item.pts)
            self._dts.append(item.dts)
            self.intact.append(item.intact)
            if self.decoder == "decord":
                self._check_for_decord(item)
            duration = item.duration
            if item.frame is not None and item.frame.interlaced_frame and not self.interlaced:
                self.interlaced = True
                self.notes.append("interlaced: deinterlaced (FFmpeg's bwdif) at its frame rate")
            stamp = item.pts if item.pts is not None else item.dts
            start = next((p for p in self._pts if p is not None), None)
            looks = (
                (stamp - start) * base
                if stamp is not None and start is not None
                else len(self._pts) / self.fps
            )
            later += looks > until
        times_F = shown_at(self._pts, self._dts, 1 / (self.fps * base)) * base
        self.known_F = times_F - times_F[0]
        if self.complete:
            self.last_duration = duration * base
            if len(self._pts) > 1 and self.index.rate:
                average = (len(times_F) - 1) / float(self.known_F[-1])
                self.fps = self.index.rate if abs(average - self.index.rate) < 0.02 * average else average

    # --- what they look like ---

    def _read(self, wanted: list[int]) -> Iterator[np.ndarray]:
        while len(self._pts) <= wanted[-1] and not self.complete:
            self.scan(float(self.known_F[-1]) + 1 if len(self.known_F) else 0.0)
        if wanted[-1] >= len(self._pts):
            raise AssertionError(f"{self.name} has {len(self._pts)} frames; frame {wanted[-1]} was requested")
        self.clock.restart()
        good = next((k for k, i in enumerate(wanted) if not self.intact[i]), len(wanted))
        yield from self._drawn(wanted[:good])
        if good < len(wanted):
            i = wanted[good]
            raise UnreadableVideo(
                f"{self.name} is damaged at {self.known_F[i]:.2f} s (frame {i}): the picture there is not as it was "
                "recorded; give an intact file."
            )

    def _drawn(self, wanted: list[int]) -> Iterator[np.ndarray]:
        given = 0
        if wanted and self.decoder == "decord" and self._as_decord_counts(wanted[-1]):
            try:
                for i, picture in zip(wanted, decord_frames(self.source, wanted), strict=True):
                    self.clock.check()
                    if not self.painter.looks_like(picture, self._looks[i]):
                        raise DecordUnsure
                    yield picture
                    given += 1
            except (
                DecordUnsure
            ):  # a different picture, or damage in frames that decord read ahead, which fails intact frames
                self.decoder = "pyav"
        elif wanted:
            self.decoder = "pyav"
        wanted = wanted[given:]
        if not wanted:
            return
        if self._cursor is None or self._cursor[0] > wanted[0]:
            self._cursor = (0, self._numbered())
        number, frames = self._cursor
        picture = np.empty(0)
        drawn = -1
        for target in wanted:
            while number <= target:
                number, frame = next(frames)
                number += 1
                self._cursor = (number, frames)
                if number - 1 == target:
                    picture, drawn = self.painter.paint(frame), target
            assert drawn == target, (drawn, target)
            yield picture

    def _as_decord_counts(self, last: int) -> bool:
        """Whether every picture so far came from its own packet, intact, so that decord's numbers match."""
        same = self._pts[: last + 1] == self.index.pts[: last + 1]
        return same and not self.interlaced and all(self.intact[: last + 1]) and self._steady

    def _check_for_decord(self, item: Decoded) -> None:
        """Keep the frame's look to check decord's picture; note key frames and sizes it mishandles."""
        if item.frame is None:
            return
        self._looks.append(look_of(item.frame))
        refreshed = item.pts in self.index.keys and not is_intra(item.frame)  # gradual refresh
        resized = (item.frame.width, item.frame.height) != self._first_size
        if refreshed or resized:
            self._steady = False

    def _numbered(self) -> Iterator[tuple[int, Any]]:
        """(number, frame) of all pictures from the start, progressive."""
        threads = (
            2 if all(self.intact) else 1
        )  # one thread reports errors as in the scan, where they were numbered too
        items = enumerate(
            decoded(self.source, self.index.stream, self.clock, whole=self.index.whole, threads=threads)
        )
        frames = ((i, item.frame) for i, item in items if item.frame is not None)
        return deinterlaced(frames) if self.interlaced else frames
