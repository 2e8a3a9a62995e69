"""Measures the line around an object from the object's tones and the mixed colours at its rim.

Letters: H and W pixels, C = 3 colours.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from datasets.sprites.style import line_colour
from datasets.sprites.world import COLOURS, two_tones

Array = np.ndarray
CLEAR = 30.0  # minimum RGB distance from the line's colour to possible rim colours, else not measurable


def core_of(front_HW: Array) -> Array:
    """The foreground's inner part, without a line: deeper than 3 pixels of 64, else the deepest third."""
    depth = ndimage.distance_transform_edt(front_HW) * 64 / len(front_HW)
    deep = depth > 3.0
    if deep.sum() >= 12:
        return deep
    return depth >= np.quantile(depth[front_HW], 0.67) if front_HW.any() else deep


def outline_strength(pixels_HWC: Array, front_HW: Array, behind_23: Array, colour: str) -> float:
    """Strength of the line along the object's rim: 0 none, 1 a full line, nan if it cannot be measured.

    A rim without a line mixes one of the object's tones with the background. Any excess over every such
    mixture in the direction of the line's colour comes from the line. Takes the strongest value within
    a pixel, and the median along the rim.

    Args:
        front_HW: the object's pixels.
        behind_23: the background's darkest and lightest colour.
        colour: the object's, a word of COLOURS.
    """
    depth = ndimage.distance_transform_edt(front_HW) * 64 / len(front_HW)
    rim = (depth > 0) & (depth <= 1.5)
    near = ndimage.binary_dilation(rim, iterations=2)
    line = line_colour(colour)
    pixels = pixels_HWC[near]
    found = np.full(len(pixels), np.inf)
    for tone in two_tones(COLOURS[colour]):
        for ground in behind_23:
            at = _on_segment(pixels, tone, ground)
            aim = line - _on_segment(line, tone, ground)
            length = float(np.linalg.norm(aim))
            if length < CLEAR:
                return float("nan")
            found = np.minimum(found, (pixels - at) @ aim / length**2)
    strength = np.zeros(front_HW.shape)
    strength[near] = found
    strongest = ndimage.maximum_filter(strength, size=3)
    return float(np.clip(np.median(strongest[rim]), 0, 1)) if rim.any() else float("nan")


def _on_segment(points: Array, start: Array, end: Array) -> Array:
    """The nearest point of a segment to each point [..., 3]."""
    along = end - start
    s = np.clip((points - start) @ along / max(float(along @ along), 1e-6), 0, 1)
    return start + s[..., None] * along
