"""Computes when each decoded picture is shown, from its time stamps.

Decoders return pictures in display order, but their stamps may be missing, repeated or wrong. The order
is kept, so time never goes back. Stamps that fit the order are kept; the others are interpolated
between their neighbours. If the clock restarts (carelessly joined files), time continues from where it
was.

All times here are ticks of the stream's time base.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

RUN = 8  # this many ascending stamps indicate a restarted clock, fewer are wrong stamps


def shown_at(pts: Sequence[int | None], dts: Sequence[int | None], step: float) -> np.ndarray:
    """The time of each picture, float64 [F], strictly ascending.

    Args:
        pts: presentation stamps in output order, None where missing.
        dts: the decoding stamps of the same pictures. They replace `pts` that go back too often, such
            as those that FFmpeg guesses for H.264 with B-frames in AVI.
        step: ticks between pictures, where the stamps do not give it.
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
    """How many stamps are missing or not above the previous one."""
    known = [s for s in stamps if s is not None]
    return sum(b <= a for a, b in pairwise(known)) + len(stamps) - len(known)


def _one_clock(values: np.ndarray, step: float) -> np.ndarray:
    """Shift the stamps after a restart of the clock behind those before it."""
    values, begin = values.copy(), 0
    for i in range(1, len(values) - RUN + 1):
        run, before = values[i : i + RUN], values[begin:i]
        below = run[-1] <= before.max() and (before >= run[0]).sum() >= RUN
        if below and run[0] <= before[-1] and (np.diff(run) > 0).all():
            values[i:] += before.max() + step - run[0]
            begin = i
    return values


def _longest_rise(values: np.ndarray) -> list[int]:
    """Indices of the longest strictly ascending subsequence; of several, the one whose members come first."""
    tails: list[float] = []  # negated: for each length, the highest first member of a rise, from the right
    lengths = np.empty(len(values), int)
    for i in range(len(values) - 1, -1, -1):
        place = bisect_left(tails, -values[i])
        tails[place : place + 1] = [-values[i]]
        lengths[i] = place + 1
    found: list[int] = []
    for i, length in enumerate(lengths):
        if length == len(tails) - len(found) and (not found or values[i] > values[found[-1]]):
            found.append(i)
    return found


def _between(known: np.ndarray, values: np.ndarray, count: int, step: float) -> np.ndarray:
    everywhere = np.arange(count, dtype=np.float64)
    times = np.interp(everywhere, known, values)
    first, last = known[0], known[-1]
    times[:first] = values[0] - step * (first - everywhere[:first])
    times[last + 1 :] = values[-1] + step * (everywhere[last + 1 :] - last)
    return times
