"""Computes the number of engines: seconds of work divided by the seconds it should take.

Ray Serve's controller calls `WorkPolicy` with the replicas' statistics (`record_autoscaling_stats`): the
work in each engine, its pace, and the work that waits in the job store. An ingress reports the latter to
an engine every few seconds (`serving.jobs.backlog`). Ray pickles this module by value, so it imports the
standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NEVER = 1e9  # seconds; finite because Ray sums the replicas' values


@dataclass(frozen=True)
class Load:
    """Load of one engine: work in denoised pixels, pace in seconds per pixel, age instead of a clock time."""

    work: float = 0.0  # waiting and remaining work of the engine
    pace: float = 0.0  # 0 before its first step
    backlog: float = 0.0  # waiting in the job store
    age: float = NEVER  # seconds since the backlog was reported; clocks differ


def seconds_of_work(loads: Sequence[Load]) -> float | None:
    """Seconds that one engine would need for all work; None while no pace is known."""
    paces = [load.pace for load in loads if load.pace > 0]
    if not paces:
        return None
    newest = min(loads, key=lambda load: load.age)
    return (sum(load.work for load in loads) + newest.backlog) * sum(paces) / len(paces)


def wanted_engines(seconds: float | None, target_seconds: float, *, now: int, least: int, most: int) -> int:
    """The number of engines that finish in `target_seconds`, within bounds; `now` if the work is unknown."""
    wanted = now if seconds is None else math.ceil(seconds / target_seconds - 1e-9)
    return min(max(wanted, least), most)


class WorkPolicy:
    """Ray Serve's autoscaling policy of the engines."""

    def __init__(self, target_seconds: float) -> None:
        self.target_seconds = target_seconds

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """The wanted number of replicas; Ray applies its delays."""
        wanted = wanted_engines(
            seconds_of_work(latest(ctx.raw_metrics or {})),
            self.target_seconds,
            now=ctx.target_num_replicas,
            least=ctx.capacity_adjusted_min_replicas,
            most=ctx.capacity_adjusted_max_replicas,
        )
        return wanted, {}


def latest(raw: Mapping[str, Mapping[Any, Sequence[Any]]]) -> list[Load]:
    """The latest values of each replica, from {name: {replica: points}}."""
    loads: dict[Any, dict[str, float]] = {}
    for name in ("work", "pace", "backlog", "age"):
        for replica, points in raw.get(name, {}).items():
            if points:
                loads.setdefault(replica, {})[name] = points[-1].value
    return [Load(**values) for values in loads.values()]
