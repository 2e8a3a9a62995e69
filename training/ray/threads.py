"""How many torch threads a training worker has on a CPU."""

from __future__ import annotations

import os

SMALL = 20_000_000  # parameters of a denoiser; the embedded one has 7.5 million


def threads_for(parameters: int, workers: int) -> int:
    """Number of torch threads per worker: an equal share of the node's cores, or one for a small model.

    A step of the embedded model takes twice as long with two threads as with one: the threads
    synchronise at each of many small products (docs/benchmarks.md, "Memory that is freed and kept").

    Args:
        parameters: number of parameters of the denoiser.
        workers: number of workers on this node.
    """
    if parameters < SMALL:
        return 1
    return max(1, len(os.sched_getaffinity(0)) // workers)
