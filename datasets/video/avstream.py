"""Decodes a file's video stream strictly with FFmpeg and marks each picture that damage may affect.

Decoders hide damage: they fill in what is missing and continue. Here they must stop at it
(`err_detect`), and every picture's corruption flag is checked. So are errors that decoders only log
(FFV1's checksums). VP9 also goes through libvpx, which checks more than FFmpeg's own decoder. Pictures
after damage may refer to it, so they count as affected until a later key frame.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import av.logging
from av.stream import Disposition
from av.video.frame import PictureType

from datasets.video.videofile import MAX_SIDE, Clock, UnreadableVideo

logging.getLogger("libav").setLevel(logging.CRITICAL)

MAX_PIXELS_EACH = {"max_pixels": str(MAX_SIDE * MAX_SIDE)}
STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
CONCEALED = re.compile("CRC mismatch|[Cc]onceal|Could not find ref|error while decoding MB|Missing reference")
NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
# FFmpeg's own VP8 and VP9 decoders ignore the alpha plane.
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def open_container(source: bytes | Path) -> Any:
    """Open the file with a size limit, so that a header cannot make FFmpeg allocate a giant picture."""
    given = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    return av.open(given, options=MAX_PIXELS_EACH, metadata_errors="replace")


def choose_stream(container: Any, name: str) -> Any:
    """The stream that a player shows: the default one, then the largest, as in FFmpeg's CLI; never a cover.

    Raises:
        UnreadableVideo: there is no video stream, or its codec is unknown.
    """
    streams = [s for s in container.streams.video if not s.disposition & NO_VIDEO]
    if not streams:
        what = "no video stream"
        if container.streams.audio:
            what = "only audio and a cover picture" if container.streams.video else "only audio"
        elif container.streams.video:
            what = "only a still picture"
        raise UnreadableVideo(f"{name} has {what}; give a file with a video stream.")

    def rank(stream: Any) -> tuple[bool, bool, int, int]:
        known = stream.codec_context is not None
        size = stream.width * stream.height if known else 0
        return known, bool(stream.disposition & Disposition.default), size, -stream.index

    stream = max(streams, key=rank)
    if stream.codec_context is None:
        raise UnreadableVideo(
            f"{name} has a video stream with a codec that FFmpeg does not know; convert it, for example to H.264."
        )
    return stream


def has_alpha_layer(stream: Any) -> bool:
    """Whether a VP8 or VP9 stream has a separate alpha plane (WebM's `AlphaMode`)."""
    return stream.codec_context.name in ALPHA_DECODERS and stream.metadata.get("alpha_mode") == "1"


def open_decoders(stream: Any, *, strict: bool, threads: int) -> list[Any]:
    """The codec contexts for a packet; the last one's pictures are used. Strict ones stop at damage.

    FFmpeg's own decoder comes first because it refuses giant pictures, for which libvpx would allocate
    the memory. With one thread every error is reported with its packet; the threads of FFmpeg's HEVC
    decoder lose some errors.
    """
    contexts = [stream.codec_context]
    codec = stream.codec_context.name
    if has_alpha_layer(stream) or (codec == "vp9" and strict):
        contexts.append(av.CodecContext.create(ALPHA_DECODERS[codec], "r"))
    for context in contexts:
        context.options = MAX_PIXELS_EACH | (STRICT if strict else {})
        context.thread_type = "AUTO"
        context.thread_count = threads  # each thread holds a frame: 100 MB at 8K
    if codec == "vp8" and strict:  # only slice threads report rows of blocks whose data ends early
        contexts[0].thread_type, contexts[0].thread_count = "SLICE", 2
    return contexts


@contextmanager
def concealment(listen: bool) -> Iterator[list[str]]:
    """Collect damage that this thread's FFmpeg decoders only log, in a list that is filled at the end."""
    if not listen:
        yield []
        return
    level, found = av.logging.get_level(), list[str]()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture(local=True) as logged:
            yield found
    finally:
        av.logging.set_level(level)
    found += [text for _, _, text in logged if CONCEALED.search(text)]


def is_hidden(packet: Any, codec: str) -> bool:
    """Whether a packet holds a VP8 picture that is only a reference and never shown."""
    return codec == "vp8" and not bytes(packet)[0] >> 4 & 1


def is_intra(frame: Any) -> bool:
    """Whether a key frame packet's picture really refers to no other; libvpx does not report this."""
    return frame.pict_type in (PictureType.NONE, PictureType.I)


@dataclass(slots=True)
class Decoded:
    """One picture, in display order."""

    frame: Any  # None: the decoder failed instead
    pts: int | None
    dts: int | None
    duration: int
    intact: bool  # no damage affects it


def decoded(
    source: bytes | Path, index: int, clock: Clock, *, whole: bool, threads: int = 1
) -> Iterator[Decoded]:
    """Decode the pictures of stream `index` that are shown, in order, from the start.

    Skips pictures before the first key frame's, which refer to pictures missing from the file. Packets
    without a picture give no entry, unless damage may be the reason.

    Args:
        whole: whether the stream begins with a key frame. A stream that begins inside a group of
            pictures refers to missing ones at first, which is no damage. Its decoder is not strict;
            only the pictures' flags are checked.
        threads: more than one only for streams known to be intact.

    Raises:
        UnreadableVideo: it takes too long.
        av.error.FFmpegError: the container is damaged.
    """
    with open_container(source) as container:
        stream = container.streams[index]
        strict = whole and threads == 1
        contexts = open_decoders(stream, strict=strict, threads=threads)
        damage = Damage(whole)
        waiting: set[int] = set()  # stamps of packets without a picture so far
        for packet in container.demux(stream):
            clock.check()
            flush = packet.size == 0 and packet.dts is None and packet.pts is None
            if (
                packet.size == 0 and not flush
            ):  # AVI: repeats the previous picture; the decoder would take it for the end
                continue
            damage.before(packet)
            if packet.pts is not None and not packet.is_discard:
                waiting.add(packet.pts)
            frames = []
            try:
                with concealment(strict) as concealed:
                    for context in contexts:
                        frames = context.decode(None if flush else packet)
                if concealed:
                    damage.of(packet)
            except av.error.EOFError:
                pass
            except av.error.FFmpegError:
                if damage.of(packet) and packet.pts is None:
                    yield Decoded(None, None, packet.dts, packet.duration or 0, False)
            for frame in frames:
                if damage.hides(frame):
                    continue
                if frame.pts is not None:
                    missing = sorted(pts for pts in waiting if pts < frame.pts)
                    waiting.difference_update(missing, [frame.pts])
                    if damage.now:
                        yield from (Decoded(None, pts, None, 0, False) for pts in missing)
                yield Decoded(frame, frame.pts, frame.dts, frame.duration or 0, damage.spares(frame))
        if damage.now:
            yield from (Decoded(None, pts, None, 0, False) for pts in sorted(waiting))


class Damage:
    """Tracks which packets and pictures damage affects."""

    def __init__(self, whole: bool) -> None:
        self.whole = whole
        self.first: int | None = None  # stamp of the first picture shown
        self.started = False
        self.now = False
        self.keys: set[int | None] = set()  # stamps of later key frames, where the damage ends

    def before(self, packet: Any) -> None:
        """Note a packet that is about to be decoded."""
        if self.whole and self.first is None:
            self.first = packet.pts
        if packet.is_corrupt and self.started:  # incomplete packet
            self._begin()
        elif packet.is_keyframe and self.now:
            self.keys.add(packet.pts)

    def of(self, packet: Any) -> bool:
        """Note a packet's error; return whether it belongs to a picture that is shown."""
        if self._leads(packet.pts) or not (self.whole or self.started):
            return False
        self._begin()
        return True

    def hides(self, frame: Any) -> bool:
        """Whether a picture must not be shown, because it refers to pictures missing from the file."""
        if frame.is_corrupt and (self._leads(frame.pts) or not (self.whole or self.started)):
            return True
        if not self.started:
            self.started, self.first = True, frame.pts
        return False

    def spares(self, frame: Any) -> bool:
        """Whether no damage affects a picture."""
        if frame.is_corrupt:
            self._begin()
        elif frame.pts in self.keys and is_intra(frame):
            self.now = False
        return not self.now

    def _begin(self) -> None:
        self.now, self.keys = True, set()

    def _leads(self, pts: int | None) -> bool:
        return pts is not None and self.first is not None and pts < self.first
