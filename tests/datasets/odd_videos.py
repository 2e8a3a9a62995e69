"""Videos with the oddities of real ones: cuts without re-encoding, odd timestamps, covers, matrices."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

Change = Callable[[int, Any], bool | None]


def remux(source: Path, target: Path, change: Change, **options: str) -> Path:
    """Copy a video stream's packets. `change(number, packet)` may set timestamps; False drops the packet."""
    with av.open(str(source)) as given, av.open(str(target), "w", options=options) as output:
        stream = given.streams.video[0]
        copy = output.add_stream_from_template(stream)
        for number, packet in enumerate(p for p in given.demux(stream) if p.size):
            if change(number, packet) is not False:
                packet.stream = copy
                output.mux(packet)
    return target


def cut_at(seconds: float) -> Change:
    """Cut like `ffmpeg -ss SECONDS -i FILE -c copy`: from the key frame before, with an edit list if any."""

    def change(_: int, packet: Any) -> None:
        shift = round(seconds / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift

    return change


def from_packet(first: int) -> Change:
    """Drop the packets before this one."""
    return lambda number, _: number >= first


def with_stamp(path: Path, number: int, milliseconds: int) -> Path:
    """Move a packet's timestamp in a Matroska file with one cluster to `milliseconds` (within 32 s)."""
    with av.open(str(path)) as container:
        packet = bytes([p for p in container.demux(video=0) if p.size][number])
    data = bytearray(path.read_bytes())
    assert data.count(packet) == 1
    at = data.find(packet)  # preceded by the track number, two bytes of time, and flags
    data[at - 3 : at - 1] = struct.pack(">h", milliseconds)
    path.write_bytes(data)
    return path


def boxes(data: bytes) -> list[tuple[bytes, int, int]]:
    """(kind, begin, end) of an mp4's top-level boxes."""
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
    """Add a cover picture before the tracks of an mp4 with its index at the end, like music taggers do."""
    data = path.read_bytes()
    kind, start, end = boxes(data)[-1]
    assert (kind, end) == (b"moov", len(data))
    handler = box(b"hdlr", bytes(8), b"mdirappl", bytes(9))
    items = box(b"ilst", box(b"covr", box(b"data", struct.pack(">II", 13, 0), jpeg)))
    user = box(b"udta", box(b"meta", bytes(4), handler, items))
    path.write_bytes(data[:start] + box(b"moov", user, data[start + 8 :]))
    return path


def set_matrix(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """Set an mp4's display matrix: pixel (x, y) is shown at (ax + cy, bx + dy)."""
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
    """Write a screen recording with a held last picture, whose duration is in the sample table."""
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
