"""An engine's statistics on request. `serving.http.metrics.ENGINE` has what it reports to Prometheus."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

MOST_ADAPTERS = 4096  # adapters with a counter; the least recently used are dropped


@dataclass(frozen=True)
class EngineStats:
    """A snapshot of an engine. Times in seconds; counts since its start."""

    waiting: int
    active: int
    finishing: int
    queue_age: float  # of the oldest waiting request
    waiting_cost: float  # seconds of waiting denoising work, at the pace so far; 0 before the first step
    work: float  # waiting and remaining work in denoised pixels
    pace: float  # seconds per pixel; 0 before the first step
    steps: int
    step_seconds: float  # total of all steps
    batch_size: int  # of the last step
    batch_adapters: int
    slot_hits: int
    slot_misses: int
    slot_loads: int
    loads: dict[str, tuple[int, float]]  # tier -> (adapters loaded into it, seconds)
    recompilations: int
    uncompiled_forwards: int
    ended: dict[str, int]  # finished, failed, cancelled
    adapter_requests: dict[str, int]  # sha256 -> requests
    resident: dict[str, list[str]]  # path -> sha256 of the adapters in slots
    free_slots: dict[str, int]  # path -> slots that are neither in use nor pinned


@dataclass
class Counters:
    """Counters of an engine's thread and its worker threads."""

    steps: int = 0
    step_seconds: float = 0.0
    work: float = 0.0  # denoised pixels
    batch_size: int = 0
    batch_adapters: int = 0
    ended: dict[str, int] = field(default_factory=lambda: {"finished": 0, "failed": 0, "cancelled": 0})
    _adapters: OrderedDict[str, int] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def stepped(self, seconds: float, work: float, size: int, adapters: int) -> None:
        """Count a step."""
        self.steps += 1
        self.step_seconds += seconds
        self.work += work
        self.batch_size, self.batch_adapters = size, adapters

    def requested(self, sha256: str) -> None:
        """Count a request with this adapter."""
        with self._lock:
            self._adapters[sha256] = self._adapters.pop(sha256, 0) + 1
            while len(self._adapters) > MOST_ADAPTERS:
                self._adapters.popitem(last=False)

    def end(self, kind: str) -> None:
        """Count a request that ended as "finished", "failed" or "cancelled"."""
        with self._lock:
            self.ended[kind] += 1

    def adapters(self) -> Mapping[str, int]:
        with self._lock:
            return dict(self._adapters)

    def seconds_for(self, cost: float) -> float:
        """Seconds for this many pixels at the pace so far."""
        return cost * self.step_seconds / self.work if self.work else 0.0
