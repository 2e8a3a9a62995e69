"""What an engine does, as measurements and as a snapshot on request."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from serving.adapters.adapter_cache import AdapterCache
from serving.engine.batch import Step
from serving.engine.compiled import CompiledForward
from serving.engine.request_state import RequestState, Stage, work_left
from serving.engine.request_table import RequestTable
from serving.events import Event, Observe
from serving.requests import VideoRequest, cost_of

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


class Monitor:
    """Counts what an engine does. Counters are of the engine's thread, unless stated otherwise.

    Args:
        observe: receives measurements as they are made, named as in `serving.http.metrics.ENGINE`.
    """

    def __init__(
        self,
        requests: RequestTable,
        adapters: AdapterCache,
        compiled: CompiledForward | None,
        observe: Observe,
    ) -> None:
        self._requests, self._adapters, self._slots = requests, adapters, adapters.slots
        self._compiled, self._observe = compiled, observe
        self._steps, self._step_seconds = 0, 0.0
        self._work = 0.0  # denoised pixels
        self._batch_size = self._batch_adapters = 0  # of the last step
        self._lock = threading.Lock()  # guards the counters of several threads, which follow
        self._ended = {"finished": 0, "failed": 0, "cancelled": 0}
        self._adapter_requests: OrderedDict[str, int] = OrderedDict()

    def requested(self, request: VideoRequest) -> None:
        """Count the adapters of a submitted request, from any thread."""
        with self._lock:
            for use in request.adapters:
                self._adapter_requests[use.sha256] = self._adapter_requests.pop(use.sha256, 0) + 1
            while len(self._adapter_requests) > MOST_ADAPTERS:
                self._adapter_requests.popitem(last=False)

    def admitted(self, state: RequestState) -> None:
        """Report the time that an admitted request waited."""
        self._observe("queue_seconds", state.timings["queue"])

    def stepped(self, step: Step) -> None:
        """Count and report a step."""
        self._steps += 1
        self._step_seconds += step.seconds
        self._work += step.work
        self._batch_size, self._batch_adapters = len(step.states), step.adapters
        self._observe("step_seconds", step.seconds)
        self._observe("batch_size", self._batch_size)
        self._observe("batch_adapters", self._batch_adapters)

    def ended(self, event: Event) -> None:
        """Count a request by its final event, from any thread."""
        with self._lock:
            self._ended[type(event).__name__.lower()] += 1

    def report(self) -> None:
        """Report the gauges: how many requests are where, and the totals so far."""
        oldest = self._requests.oldest_waiting()
        self._observe("waiting", self._requests.count(Stage.WAITING))
        self._observe("active", self._requests.count(Stage.RUNNING))
        self._observe("queue_age_seconds", waited(oldest))
        self._observe("slot_hits", self._slots.hits)
        self._observe("slot_misses", self._slots.misses)
        self._observe("slot_loads", self._slots.loads)
        if self._compiled is not None:
            self._observe("recompilations", self._compiled.recompilations)
            self._observe("uncompiled_forwards", self._compiled.eager)

    def stats(self) -> EngineStats:
        """A snapshot, from any thread."""
        slots, resident, pinned = self._slots, self._slots.resident(), self._slots.pinned()
        capacity = self._adapters.bank.slots
        states = self._requests.all()
        waiting = states[Stage.WAITING]
        busy = {key for key, users in resident.items() if users or key in pinned}
        with self._lock:
            ended, adapter_requests = dict(self._ended), dict(self._adapter_requests)
        return EngineStats(
            waiting=len(waiting),
            active=len(states[Stage.RUNNING]),
            finishing=len(states[Stage.FINISHING]),
            queue_age=waited(waiting[0] if waiting else None),
            waiting_cost=self._seconds_for(sum(cost_of(state.request) for state in waiting)),
            work=sum(work_left(state) for stage in states.values() for state in stage),
            pace=self._seconds_for(1.0),
            steps=self._steps,
            step_seconds=self._step_seconds,
            batch_size=self._batch_size,
            batch_adapters=self._batch_adapters,
            slot_hits=slots.hits,
            slot_misses=slots.misses,
            slot_loads=slots.loads,
            loads=dict(self._adapters.loads),
            recompilations=self._compiled.recompilations if self._compiled else 0,
            uncompiled_forwards=self._compiled.eager if self._compiled else 0,
            ended=ended,
            adapter_requests=adapter_requests,
            resident={path: [sha for kind, sha in resident if kind == path] for path in capacity},
            free_slots={path: n - sum(1 for kind, _ in busy if kind == path) for path, n in capacity.items()},
        )

    def _seconds_for(self, cost: float) -> float:
        """Seconds for this many denoised pixels at the pace so far."""
        return cost * self._step_seconds / self._work if self._work else 0.0


def waited(state: RequestState | None) -> float:
    """Seconds since a request was submitted; 0 without a request."""
    return time.monotonic() - state.submitted if state is not None else 0.0
