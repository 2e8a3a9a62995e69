"""The video stream of a file, decoded strictly by FFmpeg: each picture, and whether damage can have touched it.

Decoders hide damage: they fill in what is missing and go on. Here they are asked to stop at it (`err_detect`), every
picture's corruption flag is looked at, so is what decoders only write into their log (FFV1's checksums), and VP9 goes
to libvpx as well, which checks more than FFmpeg's own decoder. What follows damage refers to it, so pictures count as touched until a later key frame.
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

from datasets.videofile import MAX_SIDE, Clock, UnreadableVideo

logging.getLogger("libav").setLevel(logging.CRITICAL)

MAX_PIXELS_EACH = {"max_pixels": str(MAX_SIDE * MAX_SIDE)}
STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
CONCEALED = re.compile("CRC mismatch|[Cc]onceal|Could not find ref|error while decoding MB|Missing reference")
NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
# FFmpeg's own VP8 and VP9 decoders leave the alpha plane out.
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def open_container(source: bytes | Path) -> Any:
    """The file, opened. Its header alone cannot make FFmpeg take memory for a giant picture."""
    given = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    return av.open(given, options=MAX_PIXELS_EACH, metadata_errors="replace")


def choose_stream(container: Any, name: str) -> Any:
    """The stream that a player shows: as FFmpeg's command line, the default one, then the largest; never a cover.

    Raises:
        UnreadableVideo: there is none, or its codec is unknown.
    """
    streams = [s for s in container.streams.video if not s.disposition & NO_VIDEO]
    if not streams:
        what = "no video stream"
        if container.streams.audio:
            what = "only audio and a cover picture" if container.streams.video else "only audio"
        elif container.streams.video:
            what = "only a still picture"
        raise UnreadableVideo(f"{name} holds {what}; give a file with a video stream.")

    def rank(stream: Any) -> tuple[bool, bool, int, int]:
        known = stream.codec_context is not None
        size = stream.width * stream.height if known else 0
        return known, bool(stream.disposition & Disposition.default), size, -stream.index

    stream = max(streams, key=rank)
    if stream.codec_context is None:
        raise UnreadableVideo(
            f"{name} has a video stream of a codec that FFmpeg does not know; convert it, to H.264 for one."
        )
    return stream


def has_alpha_layer(stream: Any) -> bool:
    """Whether a VP8 or VP9 stream has its alpha plane beside it (WebM's `AlphaMode`)."""
    return stream.codec_context.name in ALPHA_DECODERS and stream.metadata.get("alpha_mode") == "1"


def open_decoders(stream: Any, *, strict: bool, threads: int) -> list[Any]:
    """The codec contexts that a packet goes through; the pictures are the last one's. Strict ones stop at damage.

    FFmpeg's own decoder is first: it refuses giant pictures, for which libvpx takes the memory. With one thread every
    error is told, and with the packet that has it; the threads of FFmpeg's HEVC decoder lose errors that it sees alone.
    """
    contexts = [stream.codec_context]
    codec = stream.codec_context.name
    if has_alpha_layer(stream) or (codec == "vp9" and strict):
        contexts.append(av.CodecContext.create(ALPHA_DECODERS[codec], "r"))
    for context in contexts:
        context.options = MAX_PIXELS_EACH | (STRICT if strict else {})
        context.thread_type = "AUTO"
        context.thread_count = threads  # each holds a frame: 100 MB at 8K
    return contexts


@contextmanager
def concealment(listen: bool) -> Iterator[list[str]]:
    """What FFmpeg's decoders of this thread say about damage that they only tell their log: a list, filled at the end."""
    if not listen:
        yield []
        return
    level, found = av.logging.get_level(), list[str]()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture(local=True) as told:
            yield found
    finally:
        av.logging.set_level(level)
    found += [text for _, _, text in told if CONCEALED.search(text)]


def is_hidden(packet: Any, codec: str) -> bool:
    """Whether a packet is one of VP8's pictures that are only referred to, never shown."""
    return codec == "vp8" and not bytes(packet)[0] >> 4 & 1


def is_intra(frame: Any) -> bool:
    """Whether a frame of a packet that calls itself a key frame refers to no other; libvpx does not say."""
    return frame.pict_type in (PictureType.NONE, PictureType.I)


@dataclass(slots=True)
class Decoded:
    """One picture in the order of showing."""

    frame: Any  # None: the decoder gave an error in its place
    pts: int | None
    dts: int | None
    duration: int
    sound: bool  # no damage has touched it


def decoded(
    source: bytes | Path, index: int, clock: Clock, *, whole: bool, threads: int = 1
) -> Iterator[Decoded]:
    """Every picture of a file's stream `index` that is shown, in order, from the start.

    Pictures before the first key frame's, which refer to what is not in the file, are not shown. Packets that give no
    picture have no entry, except where there is damage: it may be why.

    Args:
        whole: the stream begins with a key frame. One that begins in the middle of a group refers to what is not there
            for a while, which is no damage: its decoder is not strict, only the pictures' flags are looked at.
        threads: more than one for what is known to be sound.

    Raises:
        UnreadableVideo: it takes too long.
        av.error.FFmpegError: the container is damaged.
    """
    with open_container(source) as container:
        stream = container.streams[index]
        strict = whole and threads == 1
        contexts = open_decoders(stream, strict=strict, threads=threads)
        damage = Damage(whole)
        waiting: set[int] = set()  # stamps of packets whose picture has not come
        for packet in container.demux(stream):
            clock.check()
            flush = packet.size == 0 and packet.dts is None and packet.pts is None
            if (
                packet.size == 0 and not flush
            ):  # AVI: nothing new is shown; to the decoder it would be the end
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
    """What damage touches, as packets and pictures go by."""

    def __init__(self, whole: bool) -> None:
        self.whole = whole
        self.first: int | None = None  # the stamp of the first picture that is shown
        self.started = False
        self.now = False
        self.keys: set[int | None] = set()  # stamps of the key frames that came after it: there it ends

    def before(self, packet: Any) -> None:
        """A packet is about to be decoded."""
        if self.whole and self.first is None:
            self.first = packet.pts
        if packet.is_corrupt and self.started:  # not all of it arrived
            self._begin()
        elif packet.is_keyframe and self.now:
            self.keys.add(packet.pts)

    def of(self, packet: Any) -> bool:
        """The packet gave an error: whether it belongs to a picture that is shown."""
        if self._leads(packet.pts) or not (self.whole or self.started):
            return False
        self._begin()
        return True

    def hides(self, frame: Any) -> bool:
        """Whether a picture is none that is shown: made of references that are not in the file."""
        if frame.is_corrupt and (self._leads(frame.pts) or not (self.whole or self.started)):
            return True
        if not self.started:
            self.started, self.first = True, frame.pts
        return False

    def spares(self, frame: Any) -> bool:
        """Whether no damage has touched a picture."""
        if frame.is_corrupt:
            self._begin()
        elif frame.pts in self.keys and is_intra(frame):
            self.now = False
        return not self.now

    def _begin(self) -> None:
        self.now, self.keys = True, set()

    def _leads(self, pts: int | None) -> bool:
        return pts is not None and self.first is not None and pts < self.first
