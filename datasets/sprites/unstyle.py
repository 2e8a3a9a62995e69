"""Measures and removes what covers a whole clip: grain and tint.

This comes before all other measurements: the tracker knows absolute colours, and a tint shifts all of them.

Letters: F frames, H and W pixels, C = 3 colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from datasets.sprites.style import TINTS
from datasets.sprites.world import BACKGROUND_COLOURS, COLOURS, background_tones, two_tones

Array = np.ndarray
GRAINY = 5.0  # grey levels; a decoder adds less
STRENGTHS = tuple(np.arange(0.12, 0.52, 0.04).round(2))
CAP = 40.0  # RGB distance from which a pixel belongs to neither object nor background
SPREAD = 3.0  # grey levels by which a gradient must explain better than one plain colour
GAIN = 4.0  # grey levels by which a tint must explain the pixels better than no tint
SHARE = 0.33  # also required, as a share of what remains unexplained without a tint


@dataclass(frozen=True)
class Veil:
    """Grain (standard deviation in grey levels) and tint (a word of TINTS or "", and its colour's share)."""

    grain: float
    tint: str
    strength: float


def grain_of(frames_FHWC: Array) -> float:
    """Standard deviation of the noise that is new in each frame, in grey levels; 0 for fewer than 2 frames.

    Uses the median over all pixels, since a moving object covers few of them. Takes the smaller of the
    change between frames and the deviation from the surroundings: edges shifted by a moving camera
    raise the first, a resting pattern raises the second.
    """
    grey = frames_FHWC.mean(axis=-1).astype(np.float32)
    if len(grey) < 2:
        return 0.0
    changes = np.median(np.abs(np.diff(grey, axis=0))) / np.sqrt(2)
    around = np.stack([cv2.medianBlur(frame.round().astype(np.uint8), 7) for frame in grey])
    return float(min(changes, np.median(np.abs(grey - around))) * 1.4826)


def without_grain(frames_FHWC: Array, grain: float) -> Array:
    """Smooth the frames where they differ by no more than the grain; edges stay."""
    return np.stack([cv2.bilateralFilter(np.ascontiguousarray(f), 9, 3.5 * grain, 2.5) for f in frames_FHWC])


@cache
def _palette() -> tuple[Array, Array]:
    """Background tones [10, 3 (dark, own, light), 3] and object tones [10, 2, 3]."""
    behind = [[*background_tones(rgb), rgb] for rgb in BACKGROUND_COLOURS.values()]
    return np.array(behind, np.float32)[:, [0, 2, 1]], np.stack([two_tones(rgb) for rgb in COLOURS.values()])


def _unexplained(colours_N3: Array, weights_N: Array) -> float:
    """Mean distance of the colours to the best pair of object and background colours, in grey levels."""
    behind, objects = _palette()

    def to(points: Array) -> Array:
        return np.linalg.norm(colours_N3[:, None, None] - points, axis=-1)

    own = to(behind)  # [N, 10, 3]
    along = behind[:, 2] - behind[:, 0]
    s = np.einsum("nbc,bc->nb", colours_N3[:, None] - behind[:, 0], along) / (along**2).sum(-1)
    nearest = behind[:, 0] + np.clip(s, 0, 1)[..., None] * along
    gradient = np.linalg.norm(colours_N3[:, None] - nearest, axis=-1) + SPREAD
    kinds = np.stack([own[..., 1], own[..., [0, 2]].min(-1), gradient], axis=-1).reshape(len(weights_N), -1)
    things = to(objects).min(-1)  # [N, 10]
    pairs = np.minimum(np.minimum(kinds[:, :, None], things[:, None]), CAP)
    return float(np.einsum("n,nbo->bo", weights_N, pairs).min())


def _colours(frames_FHWC: Array) -> tuple[Array, Array]:
    """The clip's colours [N, 3] and each one's share of the pixels [N]."""
    few = frames_FHWC[np.unique(np.linspace(0, len(frames_FHWC) - 1, 3).round().astype(int)), ::2, ::2]
    pixels = few.reshape(-1, 3)
    _, which, count = np.unique(
        pixels // 12 @ np.array([1, 32, 1024]), return_inverse=True, return_counts=True
    )
    sums = np.stack([np.bincount(which, pixels[:, c]) for c in range(3)], axis=-1)
    return (sums / count[:, None]).astype(np.float32), (count / len(pixels)).astype(np.float32)


def tint_of(frames_FHWC: Array) -> tuple[str, float]:
    """(word of TINTS, share of its colour): the tint with which the world's colours explain the clip best.

    ("", 0) unless one explains the clip clearly better than no tint.
    """
    colours, weights = _colours(frames_FHWC)
    without = _unexplained(colours, weights)
    best = (without, "", 0.0)
    if without > GAIN:
        for name, rgb in TINTS.items():
            for strength in STRENGTHS:
                freed = (colours - strength * np.asarray(rgb, np.float32)) / (1 - strength)
                left = _unexplained(freed, weights) * (1 - strength)
                best = min(best, (left, name, float(strength)))
    left, name, strength = best
    return (name, strength) if without - left > max(GAIN, SHARE * without) else ("", 0.0)


def without_tint(frames_FHWC: Array, tint: str, strength: float) -> Array:
    """The frames before the tint was mixed in, uint8."""
    freed = (frames_FHWC - strength * np.asarray(TINTS[tint], np.float32)) / (1 - strength)
    return np.clip(freed + 0.5, 0, 255).astype(np.uint8)


def unveiled(frames_FHWC: Array) -> tuple[Array, Veil]:
    """The clip without grain and tint (itself if it has neither), and what was removed."""
    grain = grain_of(frames_FHWC)
    if grain > GRAINY:
        frames_FHWC = without_grain(frames_FHWC, grain)
    tint, strength = tint_of(frames_FHWC)
    if tint:
        frames_FHWC = without_tint(frames_FHWC, tint, strength)
    return frames_FHWC, Veil(grain, tint, strength)
