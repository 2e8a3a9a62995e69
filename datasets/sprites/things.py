"""Finds other things in a clip: follows foreground pieces and separates resting ones from the object.

Letters: F frames, H and W pixels, N pieces.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

Array = np.ndarray
LEAST = 4  # pixels; smaller pieces are noise
OBJECT = 34  # pixels of 64x64; clutter is smaller, an object larger
STEP = 7.0  # maximum movement per frame in pixels of 64; large pieces may move four times as far
ALIKE = 70.0  # maximum RGB distance between two sights of the same piece
MOST = 60  # maximum regions in a frame; more are not things of this world
FEW = 3  # minimum number of small resting pieces for clutter; fewer may be crumbs of the object
BESIDE = 12  # pixels of 64: maximum distance from a stripe's middle to the next piece of the object
HALF = 0.5  # minimum share of the frames in which a piece is seen
RESTS = 1.2  # pixels of 64, root mean square deviation from the camera's movement


@dataclass
class Piece:
    """One piece of foreground through the clip: labels, places [x, y] in pixels, areas, latest colour."""

    labels: dict[int, int] = field(default_factory=dict)
    places: dict[int, Array] = field(default_factory=dict)
    areas: list[int] = field(default_factory=list)
    colour: Array = field(default_factory=lambda: np.zeros(3))

    @property
    def area(self) -> float:
        return float(np.median(self.areas))

    def add(self, frame: int, label: int, place: Array, area: int, colour: Array) -> None:
        self.labels[frame], self.places[frame] = label, place
        self.areas.append(area)
        self.colour = colour

    def step(self) -> Array:
        """Pixels per frame [2], from a straight line through its places."""
        at = np.array(list(self.places))
        return np.array([np.polyfit(at, [p[i] for p in self.places.values()], 1)[0] for i in (0, 1)])

    def strays(self, step: Array) -> float:
        """Root mean square distance of its places from a straight path with that step."""
        off = np.array([place - frame * step for frame, place in self.places.items()])
        return float(np.sqrt(((off - off.mean(axis=0)) ** 2).sum(axis=1).mean()))


@dataclass(frozen=True)
class Things:
    """The things found besides the object.

    Args:
        hidden_FHW: pixels of everything else, to be ignored when the object is measured; None if there
            is nothing.
        clutter: how many small resting things were seen in most frames.
        second: whether another object is there in at least half of the frames.
        camera: the camera's step in pixels per frame [2], from resting things; None if unknown.
    """

    hidden_FHW: Array | None
    clutter: int
    second: bool
    camera: Array | None


def things_in(frames_FHWC: Array, front_FHW: Array) -> Things:
    """Separate a clip's foreground into the object and other things."""
    unit = frames_FHWC.shape[1] / 64
    labels_FHW = np.zeros(front_FHW.shape, int)
    pieces: list[Piece] = []
    for f, front in enumerate(front_FHW):
        labels_FHW[f], count = ndimage.label(front)
        if count > MOST:
            return Things(None, 0, False, None)
        for label, area, place, colour in _regions(frames_FHWC[f], labels_FHW[f], count):
            if area >= LEAST * unit**2:
                _follow(pieces, f, label, place, area, colour, unit)
    lasting = [p for p in pieces if len(p.labels) >= max(2, HALF * len(front_FHW))]
    if len(lasting) < 2:
        return Things(None, 0, False, None)
    small = [p for p in lasting if p.area < OBJECT * unit**2]
    large = [p for p in lasting if p.area >= OBJECT * unit**2]
    if not large:
        return Things(None, 0, False, None)
    # resting in the scene: moving evenly on the screen, with different steps if the camera zooms
    rest = [p for p in small if p.strays(p.step()) < RESTS * unit]
    camera = np.median([p.step() for p in rest], axis=0) if len(rest) >= FEW else None
    main = _moving(large, camera, unit)
    own_labels = dict(main.labels)
    others = []
    for piece in sorted(large, key=lambda p: -p.area):
        if not piece.labels.keys() & own_labels.keys():
            # Never seen together with the object: it is the object, after a jump in colour, size or place.
            own_labels |= piece.labels
        elif piece is not main and not _within(piece, main, labels_FHW):
            others.append(piece)
    rest = [p for p in rest if not _within(p, main, labels_FHW)]
    clutter = len(rest) if len(rest) >= FEW else 0
    if not others and not clutter:
        return Things(None, 0, False, None)
    hidden = np.zeros(front_FHW.shape, bool)
    for f, labels in enumerate(labels_FHW):
        own = labels == own_labels[f] if f in own_labels else np.zeros(labels.shape, bool)
        keep = _box(own)
        rim = ndimage.binary_dilation((labels > 0) & ~own, iterations=2)
        hidden[f] = rim & ~ndimage.binary_dilation(own, iterations=2) & ~keep
    return Things(hidden, clutter, bool(others), camera if clutter else None)


def _regions(frame_HWC: Array, labels_HW: Array, count: int) -> list[tuple[int, int, Array, Array]]:
    """(label, area, place [2], colour [3]) of each region."""
    if not count:
        return []
    index = np.arange(1, count + 1)
    areas = ndimage.sum_labels(np.ones(labels_HW.shape), labels_HW, index).astype(int)
    places = np.array(ndimage.center_of_mass(labels_HW > 0, labels_HW, index))[:, ::-1]
    colours = np.stack([ndimage.mean(frame_HWC[..., c], labels_HW, index) for c in range(3)], axis=-1)
    return list(zip(index.tolist(), areas.tolist(), places, colours, strict=True))


def _follow(
    pieces: list[Piece], frame: int, label: int, place: Array, area: int, colour: Array, unit: float
) -> None:
    """Add a region to the piece that it continues, or start a new piece."""

    def gap(piece: Piece) -> float:
        last = max(piece.places)
        if frame in piece.places or frame - last > 3:
            return np.inf
        away = float(np.linalg.norm(place - piece.places[last])) / (frame - last)
        size = max(area, piece.areas[-1]) / max(1, min(area, piece.areas[-1]))
        far = STEP * unit * (4 if min(area, piece.areas[-1]) >= OBJECT * unit**2 else 1)
        if away > far or size > 2.5 or np.linalg.norm(colour - piece.colour) > ALIKE:
            return np.inf
        return away

    best = min(pieces, key=gap, default=None)
    if best is None or not np.isfinite(gap(best)):
        best = Piece()
        pieces.append(best)
    best.add(frame, label, place, area, colour)


def _moving(large: list[Piece], camera: Array | None, unit: float) -> Piece:
    """The object: the largest moving piece if it has half of the largest piece's area, else the largest."""
    step = np.zeros(2) if camera is None else camera
    largest = max(large, key=lambda p: p.area)
    moving = [p for p in large if p.strays(step) >= RESTS * unit and 2 * p.area >= largest.area]
    return max(moving or [largest], key=lambda p: p.area)


def _box(mask_HW: Array, margin: int = 0) -> Array:
    """The pixels of the mask's bounding box, with a margin."""
    box = np.zeros(mask_HW.shape, bool)
    if mask_HW.any():
        rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
        top, left = max(0, rows[0] - margin), max(0, columns[0] - margin)
        box[top : rows[-1] + 1 + margin, left : columns[-1] + 1 + margin] = True
    return box


def _within(piece: Piece, main: Piece, labels_FHW: Array) -> bool:
    """Whether a piece is part of the object: in most frames its middle is in the object's box.

    It may also be just beside the box, in the object's colour and at a constant offset: a stripe in the
    background's colour splits the object.
    """
    shared = [f for f in piece.labels if f in main.labels]
    if not shared:
        return False
    unit = labels_FHW.shape[1] / 64
    gaps = np.array([piece.places[f] - main.places[f] for f in shared])
    keeps = float(np.sqrt(((gaps - gaps.mean(axis=0)) ** 2).sum(axis=1).mean())) < 2 * RESTS * unit
    # in the object's colour, or in the other tone of a two-toned object (`world.two_tones`)
    apart = [float(np.linalg.norm(piece.colour - main.colour * tone)) for tone in (1.0, 0.55, 1 / 0.55)]
    alike = keeps and min(apart) < ALIKE
    margin = round(BESIDE * unit) if alike else 0
    inside = 0
    for f in shared:
        x, y = piece.places[f].round().astype(int)
        inside += bool(_box(labels_FHW[f] == main.labels[f], margin)[y, x])
    return inside > len(shared) / 2
