"""Random paths for the known motion "wanders", newly drawn for each clip, as general motion for pretraining.

A small adapter cannot teach a curve to a model that has only seen straight lines. Wandering shows it
all kinds of curves and corners, under a word that promises no particular one. Novel motions stay novel:
a path that resembles one of them is discarded and drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray
EXTENT = (0.25, 0.55)  # longer side of a path's bounding box, frame widths
RESEMBLES = 0.85  # correlation of centred paths above which they count as alike
CHECKED_AT = np.linspace(0.0, 1.0, 16)


def agreement(a_F2: Array, b_F2: Array) -> float:
    """Normalised correlation of two centred paths, -1 to 1: 1 is the same motion at any position and size."""
    a, b = a_F2 - a_F2.mean(0), b_F2 - b_F2.mean(0)
    return float((a * b).sum() / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-9))


def _curve(rng: np.random.Generator) -> Callable[[Array], Array]:
    """A random Fourier series of up to two and a half periods, sweeping or trembling: t [F] -> [F, 2]."""
    periods = np.array([0.5, 1.0, 1.5, 2.0, 2.5])
    # Random decay of the high frequencies: a model that has only seen sweeps cannot be taught to tremble.
    size = rng.normal(size=(5, 2)) / periods[:, None] ** rng.uniform(0.0, 1.5)
    phase = rng.random((5, 2)) * 2 * np.pi
    return lambda t: (size * np.cos(2 * np.pi * t[:, None, None] * periods[:, None] + phase)).sum(1)


def _corners(rng: np.random.Generator) -> Callable[[Array], Array]:
    """Straight lines between 3 to 6 random points, each taking the same time: t [F] -> [F, 2]."""
    points = rng.random((int(rng.integers(3, 7)), 2))
    at = np.linspace(0.0, 1.0, len(points))
    return lambda t: np.stack([np.interp(t, at, points[:, i]) for i in (0, 1)], axis=1)


def random_path(
    rng: np.random.Generator, avoid: Sequence[Callable[[Array], Array]] = ()
) -> Callable[[Array], dict[str, Array]]:
    """A random path in Motion's form, a curve or corners, unlike all of `avoid` (each t [F] -> [F, 2])."""
    while True:
        way = (_curve if rng.random() < 0.6 else _corners)(rng)
        points_F2 = way(CHECKED_AT)
        extent = float(np.ptp(points_F2, axis=0).max())
        if extent < 1e-3 or any(agreement(points_F2, other(CHECKED_AT)) > RESEMBLES for other in avoid):
            continue
        scale = float(rng.uniform(*EXTENT)) / extent
        middle = (points_F2.max(0) + points_F2.min(0)) / 2
        break

    def path(t: Array) -> dict[str, Array]:
        x, y = ((way(t) - middle) * scale).T
        return {"x": x, "y": y}

    return path
