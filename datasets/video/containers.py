"""Detects truncated files from their structure, without decoding a frame.

Frame counts in headers are no proof: an edit list shows fewer frames than the index has, and a dropped
frame is counted but absent. A part (box, chunk, element, tag) that claims to be longer than the rest of
the file is a proof. MPEG-TS, MPEG-PS and raw streams have no such parts, so truncation cannot be
detected there.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import IO

# Top-level boxes of mp4 and mov. Data after an unknown one is a camera's trailer, not a box.
BOXES = {
    *(b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"mfra", b"sidx", b"ssix", b"free", b"skip", b"wide"),
    *(b"uuid", b"udta", b"meta", b"pdin", b"prft", b"emsg", b"pnot"),
}
EBML, SEGMENT, CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
RIFF_SLACK = 16  # some writers include the header in the length; less than an index entry


def ends_early(source: bytes | Path) -> bool:
    """Whether the end of an mp4/mov, avi, mkv/webm or flv file is missing. False for every other format."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = file.read(12)
        file.seek(0)
        if head[4:8] in BOXES:
            return _boxes_end_early(file, size)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return _riff_ends_early(file, size)
        if int.from_bytes(head[:4], "big") == EBML:
            return _ebml_ends_early(file, size)
        if head[:3] == b"FLV":
            return _flv_ends_early(file, size)
    return False


def _boxes_end_early(file: IO[bytes], size: int) -> bool:
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length, kind = struct.unpack(">I4s", head[:8])
        if kind not in BOXES or length == 0:  # 0: extends to the end of the file
            return False
        if length == 1:
            if len(head) < 16:
                return True
            length = struct.unpack(">Q", head[8:])[0]
        if length < 8:
            return False
        at += length
    return at > size


def _riff_ends_early(file: IO[bytes], size: int) -> bool:
    at = 0
    while at + 12 <= size:
        file.seek(at)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF" or length in (0, 0xFFFFFFFF):  # never finalized: any length is valid
            return False
        at += 8 + length + length % 2
    return at > size + RIFF_SLACK


def _ebml_ends_early(file: IO[bytes], size: int) -> bool:
    """Walk the elements; of segments and clusters of unknown length (live streams), walk the children."""
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(12)
        kind, used = _ebml_number(head, keep_marker=True)
        length, more = _ebml_number(head[used:], keep_marker=False)
        if not used or not more:
            return at + 12 > size  # cut inside an element's head; otherwise not an element but a trailer
        if length is None and kind not in (SEGMENT, CLUSTER):
            return False
        at += used + more + (0 if length is None else length)
        if at > size:
            return True
    return False


def _ebml_number(data: bytes, *, keep_marker: bool) -> tuple[int | None, int]:
    """(value, bytes used) of a variable-length number. None: unknown length; 0 bytes used: no number."""
    if not data or not data[0]:
        return 0, 0
    used = 9 - data[0].bit_length()
    if len(data) < used:
        return 0, 0
    value = int.from_bytes(data[:used], "big")
    if keep_marker:
        return value, used
    value &= (1 << 7 * used) - 1
    return (None if value == (1 << 7 * used) - 1 else value), used


def _flv_ends_early(file: IO[bytes], size: int) -> bool:
    head = file.read(9)
    at = struct.unpack(">I", head[5:9])[0] + 4
    while at + 11 <= size:
        file.seek(at)
        at += 11 + int.from_bytes(file.read(4)[1:], "big") + 4
    return at not in (size, size + 4)  # some writers omit the last tag's length
