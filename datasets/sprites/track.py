"""Measure a sprite clip from its pixels alone: where the object is in each frame, what it is, what is behind it.

Each frame by itself, in four steps:
1. background: the colour family (its dark-to-light segment in RGB) that lies nearest to most pixels, then its kind;
2. object: pixels far from the background vote for a colour; every pixel gets a soft cover in [0, 1] from its distances
   to the two, which survives the blur of a decoder;
3. the largest covered region gives position and size; too small a one means that there is no object;
4. shape: the best overlap (soft intersection over union) with the shapes drawn in its place, upright, then turned.

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
MIN_AREA = 0.006  # of the frame: 25 pixels of 64x64; less is no object
FAR = 45.0  # RGB distance from the background that makes a pixel foreground
LINED = 0.17  # strength of an outline from which it is taken into account


@dataclass(frozen=True)
class Sight:
    """What one frame shows. `found` False: no object; its fields are then None or nan.

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
    """A clip's measurement: the frames' sights and what most of them say."""

    sights: tuple[Sight, ...]

    @property
    def x(self) -> Array:
        return np.array([s.x for s in self.sights])

    @property
    def y(self) -> Array:
        return np.array([s.y for s in self.sights])

    @property
    def radius(self) -> Array:
        return np.array([s.radius for s in self.sights])

    @property
    def found(self) -> Array:
        return np.array([s.found for s in self.sights])

    @property
    def present(self) -> bool:
        """Whether the object is there in every frame."""
        return bool(self.found.all())

    @property
    def confidence(self) -> float:
        return float(np.mean([s.confidence for s in self.sights]))

    def most(self, field: str) -> str | None:
        """What most frames say about `field` ("colour", "shape", "texture", "background", "background_kind")."""
        votes = Counter(v for s in self.sights if (v := getattr(s, field)) is not None)
        return votes.most_common(1)[0][0] if votes else None

    def displacement(self) -> Array:
        """[2]: how far the object came from first to last frame, by a straight line through all sights; nan if < 2."""
        seen = self.found
        if seen.sum() < 2:
            return np.full(2, np.nan)
        t = np.linspace(0, 1, len(seen))[seen]
        return np.array([np.polyfit(t, v[seen], 1)[0] for v in (self.x, self.y)])


def track(frames_FHWC: Array) -> Track:
    """Measure a clip, uint8 [F, H, W, 3], whatever its style (`datasets.sprites.style`)."""
    return observe(frames_FHWC).track


@dataclass(frozen=True)
class Observed:
    """A clip's measurement and what was taken off before it: what `datasets.sprites.looks` reads a style from.

    Args:
        frames_FHWC: the clip without grain and tint.
        outlines_F: strength of the line along the object's rim, nan where no object is or it cannot be told.
    """

    track: Track
    frames_FHWC: Array
    veil: Veil
    things: Things
    outlines_F: Array


def observe(frames_FHWC: Array) -> Observed:
    """Measure a clip, uint8 [F, H, W, 3]: grain and tint off, then each frame without what else lies in it.

    A clip without a style is measured frame by frame as it is.
    """
    frames, veil = unveiled(frames_FHWC)
    behind = [_background(frame.astype(np.float32), veil.grain > GRAINY) for frame in frames]
    things = things_in(frames, np.stack([away > FAR for _, _, away in behind]))
    sights, outlines = [], []
    for f, frame in enumerate(frames):
        hidden = None if things.hidden_FHW is None else things.hidden_FHW[f]
        outlines.append(_outline(frame.astype(np.float32), *behind[f], hidden))
        sights.append((frame, behind[f], hidden))
    known = np.array(outlines)
    known = known[np.isfinite(known)]
    lined = bool(len(known)) and float(np.mean(known)) > LINED
    return Observed(
        Track(tuple(_see(frame, of, hidden, lined) for frame, of, hidden in sights)),
        frames,
        veil,
        things,
        np.array(outlines),
    )


def _outline(pixels: Array, name: str, kind: str, away: Array, hidden: Array | None) -> float:
    """Strength of the line around the frame's object, nan where there is none."""
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
    """Distance of pixels [..., 3] to a segment [2, 3], and where on it (0..1) the nearest point is."""
    along = ends[1] - ends[0]
    s = np.clip((pixels - ends[0]) @ along / (along @ along), 0, 1)
    return np.linalg.norm(pixels - ends[0] - s[..., None] * along, axis=-1), s


def spread(frames_FHWC: Array, background: str) -> tuple[Array, Array]:
    """(distance, place) [F, H, W] of each pixel to and on the segment from a background's darkest to its lightest colour."""
    return _segment_distance(frames_FHWC.astype(np.float32), _families()[background])


@cache
def _families() -> dict[str, Array]:
    return {name: background_tones(rgb) for name, rgb in BACKGROUND_COLOURS.items()}


def _background(pixels: Array, grainy: bool = False) -> tuple[str, str, Array]:
    """(colour, kind, distance [H, W] of each pixel to the background); of a grainy frame the shades are smoothed."""
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
        own = np.median(pixels[behind], axis=0)  # closer than the whole family
        return name, "plain", np.linalg.norm(pixels - own, axis=-1)
    if abs(np.corrcoef(rows, shade)[0, 1]) > 0.75:
        line = np.polyfit(rows, shade, 1)
        dark, light = _families()[name]
        expected = np.clip(np.polyval(line, np.arange(len(s)) / len(s)), 0, 1)[:, None, None]
        return name, "gradient", np.linalg.norm(pixels - dark - expected * (light - dark), axis=-1)
    return name, "checkered", distance


def _smooth(values_HW: Array, known_HW: Array) -> Array:
    """Averaged over a few pixels around, those that are not known left out."""
    width = len(values_HW) / 25
    weight = ndimage.gaussian_filter(known_HW.astype(np.float32), width)
    return ndimage.gaussian_filter(np.where(known_HW, values_HW, 0.0), width) / np.maximum(weight, 1e-3)


def _votes(chosen: Array) -> dict[str, float]:
    """How much of the pixels [N, 3] each colour claims."""
    votes = {}
    for name, rgb in COLOURS.items():
        own, second = (np.linalg.norm(chosen - tone, axis=-1) for tone in two_tones(rgb))
        # the second tone counts for less: a dark one is also what a blurred rim looks like
        votes[name] = float((np.exp(-((own / 40) ** 2)) + 0.35 * np.exp(-((second / 40) ** 2))).sum())
    return votes


def _object(pixels: Array, away: Array, lined: bool) -> tuple[str, str, Array] | None:
    """(colour, texture, soft cover [H, W]); None when too little is far from the background.

    Args:
        lined: a line runs along the rim: colour and texture are read inside it, the cover includes it.
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
    """How much of the variance of `dark` inside the object lies between its rows: high for stripes."""
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
    """(soft IoU, x, y, radius) of the shape drawn where the cover is, with its area; in pixels."""
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


def see(frame_HWC: Array) -> Sight:
    """Measure one frame, uint8 [H, W, 3] (H = W), as one without a style: that takes a clip to tell."""
    return _see(frame_HWC, _background(frame_HWC.astype(np.float32)))


def _see(
    frame_HWC: Array, behind: tuple[str, str, Array], hidden: Array | None = None, lined: bool = False
) -> Sight:
    """Measure one frame whose background is known; `hidden` pixels are taken for background."""
    pixels = frame_HWC.astype(np.float32)
    size = len(pixels)
    name, kind, away = behind
    if hidden is not None:
        away = np.where(hidden, 0.0, away)
    found = _object(pixels, away, lined)
    if found is None:
        return Sight(False, name, kind)
    colour, texture, cover = found
    regions, count = ndimage.label(cover > 0.4)
    masses = ndimage.sum_labels(cover, regions, np.arange(1, count + 1)) if count else np.zeros(1)
    if masses.max() < MIN_AREA * size * size:
        return Sight(False, name, kind)
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
    return Sight(
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
