"""Measures how much of each style a video shows: reads from pixels what `datasets.sprites.style` draws.

Looks that no caption names leak unnoticed unless they are measured.
`evaluation.tracker_accuracy.looks_accuracy` gives the accuracy of these measurements.

Letters: F frames, H and W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.sprites.track import FAR, LINED, Observed, observe, spread
from datasets.sprites.unstyle import GRAINY
from datasets.sprites.world import CHECKER

Array = np.ndarray


@dataclass(frozen=True)
class Looks:
    """The style that a video shows. Properties say whether a look is present, fields how much of it.

    Args:
        outline: strength of the line along the object's rim, 0..1 (full line); nan without an object.
        tint: a word of TINTS, "" for none.
        tint_strength: the share of the tint's colour in every pixel.
        grain: standard deviation of the noise in grey levels.
        clutter: how many small resting things were seen.
        second: whether there is another object.
        drift: (x, y) movement of the camera over the clip in frame widths; None without clutter or a
            checkerboard to measure it.
    """

    outline: float
    tint: str
    tint_strength: float
    grain: float
    clutter: int
    second: bool
    drift: tuple[float, float] | None

    @property
    def outlined(self) -> bool:
        return self.outline > LINED

    @property
    def grainy(self) -> bool:
        return self.grain > GRAINY

    @property
    def cluttered(self) -> bool:
        return self.clutter > 0

    @property
    def drifts(self) -> bool | None:
        """Whether the camera moves by more than 4 % of the frame; None if unknown."""
        return None if self.drift is None else float(np.hypot(*self.drift)) > 0.04


def looks_of(frames_FHWC: Array) -> Looks:
    """Measure the style of a clip, uint8 [F, H, W, 3] (H = W); movements need at least 2 frames."""
    return looks_observed(observe(frames_FHWC))


def looks_observed(seen: Observed) -> Looks:
    """`looks_of` for a clip that has already been observed."""
    known = seen.outlines_F[np.isfinite(seen.outlines_F)]
    return Looks(
        outline=float(known.mean()) if len(known) else float("nan"),
        tint=seen.veil.tint,
        tint_strength=seen.veil.strength,
        grain=seen.veil.grain,
        clutter=seen.things.clutter,
        second=seen.things.second,
        drift=_drift(seen),
    )


def _drift(seen: Observed) -> tuple[float, float] | None:
    """The camera's movement, from resting things, otherwise from a checkerboard's squares."""
    frames, size = seen.frames_FHWC.shape[:2]
    if frames < 2:
        return None
    if seen.things.camera is not None:
        x, y = -seen.things.camera * (frames - 1) / size
        return float(x), float(y)
    if seen.track.most("background_kind") != "checkered":
        return None
    x, y = _checker_phases(seen)
    return float(x[-1] - x[0]), float(y[-1] - y[0])


def _checker_phases(seen: Observed) -> tuple[Array, Array]:
    """(x, y) [F]: the camera's position in frame widths, up to a constant, from the phase of the squares.

    The board is a product of two square waves of period 2 * CHECKER; its strongest waves run along the
    diagonals.
    """
    name = str(seen.track.most("background"))
    away, shade = spread(seen.frames_FHWC, name)
    known = away < FAR
    mean = (shade * known).sum(axis=(1, 2), keepdims=True) / np.maximum(
        known.sum(axis=(1, 2), keepdims=True), 1
    )
    waves = np.where(known, shade - mean, 0.0)
    size = shade.shape[1]
    at = (np.arange(size) + 0.5) / size / (2 * CHECKER)
    up, down = (
        np.unwrap(
            np.angle((waves * np.exp(-2j * np.pi * (at[None, :] + sign * at[:, None]))).sum(axis=(1, 2)))
        )
        for sign in (1, -1)
    )
    width = 2 * CHECKER / (2 * np.pi)
    return (up + down) / 2 * width, (up - down) / 2 * width
