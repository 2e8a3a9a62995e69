"""Files with what real ones have: cut without re-encoding, odd stamps, covers, matrices, alpha, damage."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

Change = Callable[[int, Any], bool | None]


def remux(source: Path, target: Path, change: Change, **options: str) -> Path:
    """Copy the packets of a video stream. `change(number, packet)` may set its stamps; False leaves it out."""
    with av.open(str(source)) as given, av.open(str(target), "w", options=options) as output:
        stream = given.streams.video[0]
        copy = output.add_stream_from_template(stream)
        for number, packet in enumerate(p for p in given.demux(stream) if p.size):
            if change(number, packet) is not False:
                packet.stream = copy
                output.mux(packet)
    return target


def cut_at(seconds: float) -> Change:
    """What `ffmpeg -ss SECONDS -i FILE -c copy` does: from the key frame before, with an edit list where there is one."""

    def change(_: int, packet: Any) -> None:
        shift = round(seconds / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift

    return change


def from_packet(first: int) -> Change:
    """Leave the packets before one out."""
    return lambda number, _: number >= first


def with_stamp(path: Path, number: int, milliseconds: int) -> Path:
    """Move the stamp of one packet of a Matroska file in one cluster to `milliseconds` (within 32 s)."""
    with av.open(str(path)) as container:
        packet = bytes([p for p in container.demux(video=0) if p.size][number])
    data = bytearray(path.read_bytes())
    assert data.count(packet) == 1
    at = data.find(packet)  # before it: the track's number, two bytes of time, flags
    data[at - 3 : at - 1] = struct.pack(">h", milliseconds)
    path.write_bytes(data)
    return path


def boxes(data: bytes) -> list[tuple[bytes, int, int]]:
    """(kind, begin, end) of an mp4's boxes at the top."""
    found, at = [], 0
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        found.append((kind, at, at + length))
        at += length
    return found


def box(kind: bytes, *parts: bytes) -> bytes:
    """One box of an mp4."""
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def add_cover(path: Path, jpeg: bytes) -> Path:
    """A cover picture in front of the tracks of an mp4 whose index is at the end, as music taggers write it."""
    data = path.read_bytes()
    kind, start, end = boxes(data)[-1]
    assert (kind, end) == (b"moov", len(data))
    handler = box(b"hdlr", bytes(8), b"mdirappl", bytes(9))
    items = box(b"ilst", box(b"covr", box(b"data", struct.pack(">II", 13, 0), jpeg)))
    user = box(b"udta", box(b"meta", bytes(4), handler, items))
    path.write_bytes(data[:start] + box(b"moov", user, data[start + 8 :]))
    return path


def set_matrix(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """The display matrix of an mp4: pixel (x, y) is shown at (ax + cy, bx + dy)."""
    data = bytearray(path.read_bytes())
    start = data.find(b"tkhd") + 44
    numbers = (a, b, 0, c, d, 0, 0, 0, 1 << 14)
    data[start : start + 36] = struct.pack(">9i", *(round(n * (1 << 16)) for n in numbers))
    path.write_bytes(data)
    return path


def packets_of(path: Path) -> list[tuple[int, int]]:
    """(position, size) of each packet in the file."""
    with av.open(str(path)) as container:
        return [(p.pos, p.size) for p in container.demux(video=0) if p.size]


def hold_last(path: Path, frames_FHWC: np.ndarray, fps: int, seconds: float) -> Path:
    """A screen recording whose last picture stands: its duration is in the table of samples."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = *frames_FHWC.shape[1:3], "yuv420p"
        stream.codec_context.options = {"bf": "0"}
        packets = [
            packet
            for frame in frames_FHWC
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame)))
        ]
        packets += stream.encode(None)
        packets[-1].duration = int(seconds / packets[-1].time_base)
        for packet in packets:
            output.mux(packet)
    return path
