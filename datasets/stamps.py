"""When each decoded picture is shown, from the stamps that it carries.

Decoders give pictures in the order in which they are shown; the stamps beside them may be missing, repeated or wrong.
The order is kept, so time never goes back. Stamps that fit the order are believed; the others are put evenly between
their neighbours. A clock that starts again (files joined without care) goes on from where it was.

All times here are ticks of the stream's time base.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

RUN = 8  # this many stamps in a row make a new clock, fewer are wrong stamps


def shown_at(pts: Sequence[int | None], dts: Sequence[int | None], step: float) -> np.ndarray:
    """The moment of each picture, float64 [F], strictly ascending.

    Args:
        pts: presentation stamps in output order, None where missing.
        dts: the decoding stamps beside them. They replace `pts` that go back too often, as the ones that FFmpeg
            guesses for H.264 with B-frames in AVI do.
        step: ticks from one picture to the next, where nothing else says it.
    """
    chosen = list(pts)
    if all(p is None for p in pts) or (_faults(pts) > max(_faults(dts), len(pts) // 10)):
        chosen = list(dts)
    known = [i for i, stamp in enumerate(chosen) if stamp is not None]
    if not known:
        return np.arange(len(chosen)) * step
    values = np.array([chosen[i] for i in known], np.float64)
    if not (np.diff(values) > 0).all():
        values = _one_clock(values, step)
        kept = _longest_rise(values)
        known, values = [known[i] for i in kept], values[kept]
    return _between(np.array(known), values, len(chosen), step)


def _faults(stamps: Sequence[int | None]) -> int:
    """How often a stamp is not above the one before."""
    known = [s for s in stamps if s is not None]
    return sum(b <= a for a, b in pairwise(known)) + len(stamps) - len(known)


def _one_clock(values: np.ndarray, step: float) -> np.ndarray:
    """The stamps, those after a restart of the clock moved behind those before it."""
    values, begin = values.copy(), 0
    for i in range(1, len(values) - RUN + 1):
        went_back = values[i] <= values[i - 1] and (values[begin:i] >= values[i]).sum() >= RUN
        if went_back and (np.diff(values[i : i + RUN]) > 0).all():
            values[i:] += values[begin:i].max() + step - values[i]
            begin = i
    return values


def _longest_rise(values: np.ndarray) -> list[int]:
    """Indices of a longest strictly ascending subsequence; of equal stamps the first is kept."""
    tails: list[float] = []
    tail_at: list[int] = []
    before = [-1] * len(values)
    for i, value in enumerate(values):
        place = bisect_left(tails, value)
        if place < len(tails) and tails[place] == value:
            continue
        before[i] = tail_at[place - 1] if place else -1
        tails[place : place + 1], tail_at[place : place + 1] = [value], [i]
    found, i = [], tail_at[-1]
    while i >= 0:
        found.append(i)
        i = before[i]
    return found[::-1]


def _between(known: np.ndarray, values: np.ndarray, count: int, step: float) -> np.ndarray:
    everywhere = np.arange(count, dtype=np.float64)
    times = np.interp(everywhere, known, values)
    first, last = known[0], known[-1]
    times[:first] = values[0] - step * (first - everywhere[:first])
    times[last + 1 :] = values[-1] + step * (everywhere[last + 1 :] - last)
    return times
