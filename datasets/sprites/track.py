"""Measures a sprite clip from pixels alone: the object's position in each frame, its looks, the background.

Each frame is measured separately, in four steps:
1. background: the colour family (a dark-to-light segment in RGB) nearest to most pixels, then its kind;
2. object: pixels far from the background vote for a colour. Every pixel gets a soft coverage in [0, 1]
   from its distances to both colours, which tolerates a decoder's blur;
3. the largest covered region gives position and size; if it is too small, there is no object;
4. shape: the best overlap (soft intersection over union) with shapes drawn at its place, upright, then
   rotated.

Letters: F frames, H and W pixels, C = 3 colours.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

from datasets.sprites.outline import core_of, outline_strength
from datasets.sprites.render import DISTANCES
from datasets.sprites.style import line_colour
from datasets.sprites.things import Things, things_in
from datasets.sprites.unstyle import GRAINY, Veil, unveiled
from datasets.sprites.world import BACKGROUND_COLOURS, COLOURS, SHAPES, background_tones, two_tones

Array = np.ndarray
MIN_AREA = 0.006  # share of the frame: 25 pixels of 64x64; less is no object
FAR = 45.0  # RGB distance from the background that makes a pixel foreground
LINED = 0.17  # minimum outline strength to be taken into account


@dataclass(frozen=True)
class Detection:
    """What one frame shows. If `found` is False there is no object, and its fields are None or nan.

    x, y, radius in frame widths, angle in turns; `confidence` in [0, 1] is the overlap with the best shape.
    """

    found: bool
    background: str
    background_kind: str
    x: float = float("nan")
    y: float = float("nan")
    radius: float = float("nan")
    angle: float = float("nan")
    colour: str | None = None
    texture: str | None = None
    shape: str | None = None
    confidence: float = 0.0


@dataclass(frozen=True)
class Track:
    """A clip's measurement: one detection per frame, and the majority values."""

    detections: tuple[Detection, ...]

    @property
    def x(self) -> Array:
        return np.array([s.x for s in self.detections])

    @property
    def y(self) -> Array:
        return np.array([s.y for s in self.detections])

    @property
    def radius(self) -> Array:
        return np.array([s.radius for s in self.detections])

    @property
    def found(self) -> Array:
        return np.array([s.found for s in self.detections])

    @property
    def present(self) -> bool:
        """Whether the object is found in every frame."""
        return bool(self.found.all())

    @property
    def confidence(self) -> float:
        return float(np.mean([s.confidence for s in self.detections]))

    def most(self, field: str) -> str | None:
        """The most frequent value of a field: colour, shape, texture, background or background_kind."""
        votes = Counter(v for s in self.detections if (v := getattr(s, field)) is not None)
        return votes.most_common(1)[0][0] if votes else None

    def displacement(self) -> Array:
        """The object's movement [2] from first to last frame, by a line fit to all detections; nan if < 2."""
        seen = self.found
        if seen.sum() < 2:
            return np.full(2, np.nan)
        t = np.linspace(0, 1, len(seen))[seen]
        return np.array([np.polyfit(t, v[seen], 1)[0] for v in (self.x, self.y)])


def track(frames_FHWC: Array) -> Track:
    """Measure a clip, uint8 [F, H, W, 3], in any style (`datasets.sprites.style`)."""
    return observe(frames_FHWC).track


@dataclass(frozen=True)
class Observed:
    """A clip's measurement and what was removed before it, from which `datasets.sprites.looks` reads a style.

    Args:
        frames_FHWC: the clip without grain and tint.
        outlines_F: strength of the line along the object's rim; nan without an object or if not measurable.
    """

    track: Track
    frames_FHWC: Array
    veil: Veil
    things: Things
    outlines_F: Array


def observe(frames_FHWC: Array) -> Observed:
    """Measure a clip, uint8 [F, H, W, 3], without its grain and tint and without other things in its frames.

    A clip without a style is measured frame by frame as it is.
    """
    frames, veil = unveiled(frames_FHWC)
    behind = [_background(frame.astype(np.float32), veil.grain > GRAINY) for frame in frames]
    things = things_in(frames, np.stack([away > FAR for _, _, away in behind]))
    measured, outlines = [], []
    for f, frame in enumerate(frames):
        hidden = None if things.hidden_FHW is None else things.hidden_FHW[f]
        outlines.append(_outline(frame.astype(np.float32), *behind[f], hidden))
        measured.append((frame, behind[f], hidden))
    known = np.array(outlines)
    known = known[np.isfinite(known)]
    lined = bool(len(known)) and float(np.mean(known)) > LINED
    return Observed(
        Track(tuple(_detect(frame, of, hidden, lined) for frame, of, hidden in measured)),
        frames,
        veil,
        things,
        np.array(outlines),
    )


def _outline(pixels: Array, name: str, kind: str, away: Array, hidden: Array | None) -> float:
    """Strength of the line around the frame's object; nan without an object."""
    front = away > FAR if hidden is None else (away > FAR) & ~hidden
    regions, count = ndimage.label(front)
    if not count:
        return float("nan")
    sizes = np.bincount(regions.ravel())[1:]
    own = regions == 1 + int(sizes.argmax())
    if own.mean() < MIN_AREA:
        return float("nan")
    chosen = pixels[core_of(own)]
    votes = _votes(chosen)
    ends = _families()[name]
    if kind == "plain":
        ends = (
            np.stack([np.median(pixels[away < FAR * 0.6], axis=0)] * 2) if (away < FAR * 0.6).any() else ends
        )
    return outline_strength(pixels, own, ends, max(votes, key=lambda name: votes[name]))


def _segment_distance(pixels: Array, ends: Array) -> tuple[Array, Array]:
    """Distance of pixels [..., 3] to a segment [2, 3], and the nearest point's place on it (0..1)."""
    along = ends[1] - ends[0]
    s = np.clip((pixels - ends[0]) @ along / (along @ along), 0, 1)
    return np.linalg.norm(pixels - ends[0] - s[..., None] * along, axis=-1), s


def spread(frames_FHWC: Array, background: str) -> tuple[Array, Array]:
    """(distance, place) [F, H, W] of each pixel relative to a background's dark-to-light segment."""
    return _segment_distance(frames_FHWC.astype(np.float32), _families()[background])


@cache
def _families() -> dict[str, Array]:
    return {name: background_tones(rgb) for name, rgb in BACKGROUND_COLOURS.items()}


def _background(pixels: Array, grainy: bool = False) -> tuple[str, str, Array]:
    """(colour, kind, distance [H, W] of each pixel to the background); grainy frames' shades are smoothed."""
    best = ("", np.inf, np.zeros(0), np.zeros(0))
    for name, ends in _families().items():
        distance, s = _segment_distance(pixels, ends)
        score = float(np.minimum(distance, FAR).mean())
        if score < best[1]:
            best = (name, score, distance, s)
    name, _, distance, s = best
    behind = distance < FAR * 0.6
    if behind.sum() < 20:
        return name, "plain", distance
    rows = np.broadcast_to(np.arange(len(s))[:, None], s.shape)[behind] / len(s)
    shade = _smooth(s, behind)[behind] if grainy else s[behind]
    if shade.std() < 0.12:
        own = np.median(pixels[behind], axis=0)  # more precise than the whole family
        return name, "plain", np.linalg.norm(pixels - own, axis=-1)
    if abs(np.corrcoef(rows, shade)[0, 1]) > 0.75:
        line = np.polyfit(rows, shade, 1)
        dark, light = _families()[name]
        expected = np.clip(np.polyval(line, np.arange(len(s)) / len(s)), 0, 1)[:, None, None]
        return name, "gradient", np.linalg.norm(pixels - dark - expected * (light - dark), axis=-1)
    return name, "checkered", distance


def _smooth(values_HW: Array, known_HW: Array) -> Array:
    """Average over nearby known pixels."""
    width = len(values_HW) / 25
    weight = ndimage.gaussian_filter(known_HW.astype(np.float32), width)
    return ndimage.gaussian_filter(np.where(known_HW, values_HW, 0.0), width) / np.maximum(weight, 1e-3)


def _votes(chosen: Array) -> dict[str, float]:
    """How much of the pixels [N, 3] each colour claims."""
    votes = {}
    for name, rgb in COLOURS.items():
        own, second = (np.linalg.norm(chosen - tone, axis=-1) for tone in two_tones(rgb))
        # the second tone counts less, because a blurred rim also looks like a dark one
        votes[name] = float((np.exp(-((own / 40) ** 2)) + 0.35 * np.exp(-((second / 40) ** 2))).sum())
    return votes


def _object(pixels: Array, away: Array, lined: bool) -> tuple[str, str, Array] | None:
    """(colour, texture, soft coverage [H, W]); None if too few pixels are far from the background.

    Args:
        lined: a line runs along the rim. Colour and texture are then read inside it; the coverage
            includes it.
    """
    front = away > FAR
    if front.mean() < MIN_AREA:
        return None
    core = core_of(front) if lined else ndimage.binary_erosion(front)  # rims mix with the background
    inner = core if core.sum() >= 12 else front
    votes = _votes(pixels[inner])
    colour = max(votes, key=lambda name: votes[name])
    own, second = (np.linalg.norm(pixels - tone, axis=-1) for tone in two_tones(COLOURS[colour]))
    textured = (second[inner] < own[inner]).mean() > 0.1
    near = np.minimum(own, second) if textured else own
    if lined:
        near = np.minimum(near, np.linalg.norm(pixels - line_colour(colour), axis=-1))
    cover = away / np.maximum(away + near, 1e-3)
    cover = np.where(away < FAR * 0.5, 0.0, np.clip(2 * cover - 0.5, 0, 1))
    texture = "plain"
    if textured:
        texture = "striped" if _row_share(second < own, inner) > 0.5 else "dotted"
    return colour, texture, cover


def _row_share(dark: Array, inside: Array) -> float:
    """Share of the variance of `dark` inside the object that is between rows: high for stripes."""
    rows = [dark[r][inside[r]] for r in range(len(dark)) if inside[r].sum() >= 2]
    whole = np.concatenate(rows) if rows else np.zeros(1)
    between = sum(len(r) * (r.mean() - whole.mean()) ** 2 for r in rows) / max(len(whole), 1)
    return float(between / max(whole.var(), 1e-6))


@cache
def _moments(shape: str) -> tuple[float, float, float]:
    """(area, centroid x, centroid y) of a shape of radius 1."""
    grid = np.linspace(-1.3, 1.3, 261)
    x, y = np.meshgrid(grid, grid)
    inside = DISTANCES[shape](x, y) < 0
    return float(inside.sum() * (grid[1] - grid[0]) ** 2), float(x[inside].mean()), float(y[inside].mean())


def _overlap(cover: Array, shape: str, turn: float) -> tuple[float, float, float, float]:
    """(soft IoU, x, y, radius) of the shape drawn at the coverage's place with its area; in pixels."""
    size = cover.shape[0]
    mass = cover.sum()
    index = np.arange(size) + 0.5
    cx, cy = (cover.sum(0) @ index) / mass, (cover.sum(1) @ index) / mass
    area, mx, my = _moments(shape)
    radius = float(np.sqrt(mass / area))
    cos, sin = np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)
    x, y = cx - radius * (cos * mx - sin * my), cy - radius * (sin * mx + cos * my)
    px, py = (index[None, :] - x) / radius, (index[:, None] - y) / radius
    drawn = np.clip(0.5 - DISTANCES[shape](cos * px + sin * py, cos * py - sin * px) * radius, 0, 1)
    return float(np.minimum(cover, drawn).sum() / np.maximum(cover, drawn).sum()), x, y, radius


def detect(frame_HWC: Array) -> Detection:
    """Measure one frame, uint8 [H, W, 3] (H = W), assuming no style: measuring a style needs a clip."""
    return _detect(frame_HWC, _background(frame_HWC.astype(np.float32)))


def _detect(
    frame_HWC: Array, behind: tuple[str, str, Array], hidden: Array | None = None, lined: bool = False
) -> Detection:
    """Measure one frame with a known background; `hidden` pixels are treated as background."""
    pixels = frame_HWC.astype(np.float32)
    size = len(pixels)
    name, kind, away = behind
    if hidden is not None:
        away = np.where(hidden, 0.0, away)
    found = _object(pixels, away, lined)
    if found is None:
        return Detection(False, name, kind)
    colour, texture, cover = found
    regions, count = ndimage.label(cover > 0.4)
    masses = ndimage.sum_labels(cover, regions, np.arange(1, count + 1)) if count else np.zeros(1)
    if masses.max() < MIN_AREA * size * size:
        return Detection(False, name, kind)
    region = ndimage.binary_dilation(regions == 1 + int(masses.argmax()), iterations=2)
    cover = np.where(region, cover, 0.0)
    fits = [(*_overlap(cover, shape, 0.0), shape, 0.0) for shape in SHAPES]
    if max(fits)[0] < 0.82:
        turns = np.arange(1, 24) / 24
        fits += [
            (*_overlap(cover, shape, turn), shape, turn)
            for shape in SHAPES[1:]
            for turn in turns
            if shape != "ring"
        ]
    overlap, x, y, radius, shape, turn = max(fits)
    return Detection(
        True,
        name,
        kind,
        float(x / size),
        float(y / size),
        radius / size,
        turn,
        colour,
        texture,
        shape,
        overlap,
    )
