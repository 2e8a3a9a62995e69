"""The loss of a training as the points of a small chart (SVG)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 600, 150  # of the drawing; the page scales it
POINTS = 240  # most points that are drawn; more are averaged
SMOOTH = 0.1  # share of the chart over which the line is averaged


@dataclass(frozen=True)
class Chart:
    """Coordinates for `points` of SVG polylines, and what stands at the axes.

    Args:
        raw: every loss.
        smooth: its moving average.
    """

    raw: str
    smooth: str
    high: str
    low: str
    first: int
    last: int


def chart_of(losses: Sequence[tuple[int, float]], steps: int | None) -> Chart | None:
    """The chart of (step, loss); None if there are fewer than two. `steps`: of the whole training, the axis' end."""
    latest = {
        step: loss for step, loss in losses if np.isfinite(loss)
    }  # of a step that was repeated, the later
    if len(latest) < 2:
        return None
    steps_N, losses_N = (np.array(values, float) for values in zip(*sorted(latest.items()), strict=True))
    parts = np.array_split(np.arange(len(steps_N)), min(POINTS, len(steps_N)))
    steps_N, losses_N = (np.array([of[part].mean() for part in parts]) for of in (steps_N, losses_N))
    low, high = float(losses_N.min()), float(losses_N.max())
    room = high - low or 1.0
    first, last = 0, max(steps or 0, int(max(latest)))
    x_N = WIDTH * (steps_N - first) / max(1, last - first)

    def line(values_N: np.ndarray) -> str:
        y_N = HEIGHT * (1 - (values_N - low) / room)
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(x_N, y_N, strict=True))

    return Chart(line(losses_N), line(averaged(losses_N)), f"{high:.3g}", f"{low:.3g}", first, last)


def averaged(values_N: np.ndarray) -> np.ndarray:
    """The mean of each value and those around it."""
    reach = max(1, int(SMOOTH * len(values_N) / 2))
    return np.array([values_N[max(0, i - reach) : i + reach + 1].mean() for i in range(len(values_N))])
