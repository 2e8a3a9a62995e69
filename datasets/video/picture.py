"""Converts a decoded frame to the RGB picture that a player shows: upright, progressive, SDR, on black.

swscale's fast conversion of 8 bit YUV gives exactly decord's pixels if the sides are even; it rounds
down, by half a level on average. Files that decord may decode are always converted this way, so that
one file always gives the same pictures (`tests/datasets/video/test_decode.py`). For other files, 8 bit YUV is
converted with exact rounding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import ColorRange, ColorTrc, Interpolation

from datasets.video.videofile import UnreadableVideo

HDR = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}
FAST = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"}
EXACT = (
    "flags=neighbor+accurate_rnd:in_h_chr_pos=128:in_v_chr_pos=128"  # each chroma sample for its own pixels
)
# FFmpeg's swscale: tone mapping in ICtCp with the mastering display's peak, and gamut mapping to BT.709
TO_SDR = "out_primaries=bt709:out_transfer=bt709:intent=perceptual"
# weights of red and green in luma, by FFmpeg's number of the matrix
LUMA = {1: (0.2126, 0.7152), 9: (0.2627, 0.678), None: (0.299, 0.587)}
DEINTERLACE = "mode=send_frame:deint=interlaced"


class DisplayMatrix:
    """The rotation and mirroring that a file asks for."""

    def __init__(self, frame: Any, name: str) -> None:
        self.transposed, self.steps = False, (1, 1)
        data = frame.side_data.get(SideData.DISPLAYMATRIX) if frame.side_data else None
        if data is None:
            return
        a, b, _, c, d, _, *_ = struct.unpack("<9i", bytes(data))
        # pixel (x, y) is shown at (ax + cy, bx + dy); y points down
        if (b, c) == (0, 0) and a and d:
            self.steps = (1 if d > 0 else -1, 1 if a > 0 else -1)
        elif (a, d) == (0, 0) and b and c:
            self.transposed = True
            self.steps = (1 if b > 0 else -1, 1 if c > 0 else -1)
        else:
            raise UnreadableVideo(
                f"{name} asks for a rotation by something other than quarter turns, or for shearing; convert it so that "
                "its pictures are upright."
            )

    def apply(self, picture_HWC: np.ndarray) -> np.ndarray:
        """The picture as it is shown."""
        if self.transposed:
            picture_HWC = picture_HWC.swapaxes(0, 1)
        return np.ascontiguousarray(picture_HWC[:: self.steps[0], :: self.steps[1]])


class Painter:
    """Converts frames of one stream to RGB pictures."""

    def __init__(self, first: Any, name: str, *, as_decord: bool, ignores_alpha: bool) -> None:
        self.matrix = DisplayMatrix(first, name)
        self.as_decord = as_decord
        self.colorspace = int(first.colorspace)
        self.full_range = first.color_range == ColorRange.JPEG or first.format.name.startswith("yuvj")
        self.ignores_alpha = ignores_alpha
        self.graphs: dict[str, tuple[tuple[Any, ...], Any]] = {}

    def paint(self, frame: Any) -> np.ndarray:
        """The frame's picture, uint8 [H, W, 3]."""
        alpha = self._has_alpha(frame)
        if is_hdr(frame):
            frame = self._through(frame, ("scale", TO_SDR))
        if frame.format.name in FAST and not self.as_decord:
            picture = self._through(frame, ("scale", EXACT), ("format", "gbrp")).to_ndarray()
        else:
            target = "rgba" if alpha else "rgb24"
            picture = frame.reformat(format=target, interpolation=Interpolation.BILINEAR).to_ndarray()
        return self.matrix.apply(on_black(picture) if alpha else picture)

    def _through(self, frame: Any, *steps: tuple[str, str]) -> Any:
        """Run FFmpeg's filters on a frame. Keeps one graph per use: streams rarely change size or colours."""
        use = str(steps)
        colors = (frame.colorspace, frame.color_range, frame.color_trc, frame.color_primaries)
        kind = (frame.width, frame.height, frame.format.name, *colors)
        if use not in self.graphs or self.graphs[use][0] != kind:
            self.graphs[use] = (kind, filter_graph(frame, *steps))
        _, source, sink = self.graphs[use][1]
        frame.pts = 0  # frames are independent here; filters would drop one that is not later than the last
        source.push(frame)
        return sink.pull()

    def looks_like(self, picture_HWC: np.ndarray, look: np.ndarray) -> bool:
        """Whether a picture matches a frame's look (`look_of`), up to rounding and clipped colours."""
        shown = self.matrix.apply(look).astype(np.float32)
        red, green = LUMA.get(self.colorspace, LUMA[None])
        rgb = picture_HWC[_points(picture_HWC.shape[0])[:, None], _points(picture_HWC.shape[1])]
        luma = rgb @ np.array([red, green, 1 - red - green], np.float32)
        if not self.full_range:
            luma = 16 + luma * (219 / 255)
        return float(np.abs(luma - shown).mean()) < 3

    def is_transparent(self, frame: Any) -> bool:
        """Whether any pixel of a frame is not opaque."""
        return self._has_alpha(frame) and bool(frame.reformat(format="rgba").to_ndarray()[..., 3].min() < 255)

    def _has_alpha(self, frame: Any) -> bool:
        parts = any(part.is_alpha for part in frame.format.components) or frame.format.has_palette
        return parts and not self.ignores_alpha


def look_of(frame: Any) -> np.ndarray:
    """A frame's luma (8 bit YUV) at 16 x 16 points: enough to detect a different picture."""
    plane = frame.planes[0]
    luma = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return luma[_points(frame.height)[:, None], _points(frame.width)]


def _points(length: int) -> np.ndarray:
    """16 positions along a side, symmetric from both ends."""
    half = (np.arange(8) * 2 + 1) * length // 32
    return np.concatenate([half, length - 1 - half[::-1]])


def is_hdr(frame: Any) -> bool:
    """Whether a frame's transfer function is PQ or HLG."""
    return frame.color_trc in HDR


def on_black(picture_HWC: np.ndarray) -> np.ndarray:
    """RGBA with straight alpha composed over black: uint8 [H, W, 3]."""
    alpha_HW1 = picture_HWC[..., 3:].astype(np.uint16)
    return ((picture_HWC[..., :3] * alpha_HW1 + 127) // 255).astype(np.uint8)


def deinterlaced(numbered: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """(number, frame) with interlaced frames made progressive by FFmpeg's bwdif; the others are unchanged."""
    graph, kind = None, None
    for number, frame in numbered:
        now = (frame.width, frame.height, frame.format.name)
        if graph is None or now != kind:
            if graph is not None:
                yield from _pulled(graph, last=True)
            graph, kind = filter_graph(frame, ("bwdif", DEINTERLACE)), now
        frame.pts = number
        graph[1].push(frame)
        yield from _pulled(graph, last=False)
    if graph is not None:
        yield from _pulled(graph, last=True)


def _pulled(graph: tuple[Any, Any, Any], *, last: bool) -> Iterator[tuple[int, Any]]:
    _, source, sink = graph
    if last:
        source.push(None)
    while True:
        try:
            frame = sink.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        yield round(frame.pts * frame.time_base), frame


def filter_graph(frame: Any, *steps: tuple[str, str]) -> tuple[Any, Any, Any]:
    """(graph, source, sink) of a chain of FFmpeg filters for frames like this one; time base: one second.

    Keep a reference to the graph: source and sink do not hold one.
    """
    graph = av.filter.Graph()
    nodes = [
        graph.add(
            "buffer",
            video_size=f"{frame.width}x{frame.height}",
            pix_fmt=frame.format.name,
            time_base="1/1",
            pixel_aspect="1/1",
            colorspace=str(int(frame.colorspace)),
            range=str(int(frame.color_range)),
        ),
        *(graph.add(name, arguments) for name, arguments in steps),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph, nodes[0], nodes[-1]
