"""How many torch threads a training worker has on a CPU."""

from __future__ import annotations

import os

SMALL = 20_000_000  # parameters of a denoiser; the embedded one has 7.5 million


def threads_for(parameters: int, workers: int) -> int:
    """torch threads of each of so many workers on this node: its share of the cores, and one for a small model.

    A step of the embedded model takes twice as long with two threads, which wait for one another at each of many small
    products, as with one (docs/benchmarks.md, "Memory that is freed and kept").

    Args:
        parameters: of the denoiser.
    """
    if parameters < SMALL:
        return 1
    return max(1, len(os.sched_getaffinity(0)) // workers)
