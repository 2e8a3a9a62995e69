"""The requests being denoised, and their steps. Used only by the engine's thread."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models.denoise import denoise_step, start
from models.foundations.base import Bucket, Foundation
from serving.adapters.slots import Lease
from serving.engine.budget import ForwardBudget, measure
from serving.engine.compiled import CompiledForward
from serving.engine.request_state import RequestState
from serving.requests import cost_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """The result of one step of one bucket's requests."""

    states: list[RequestState]  # all requests in the step
    failed: Mapping[RequestState, Exception]  # those that failed, with their errors
    adapters: int  # number of distinct adapters
    seconds: float
    work: float  # denoised pixels


class Batch:
    """Running requests of any buckets. A forward takes the requests of one bucket; buckets take turns.

    Args:
        compiled: runs the forwards; None: the foundation's `predict`.
        warm_buckets: video sizes to measure; None: the foundation's default.
        available: bytes for a forward's activations (`budget.measure`).
    """

    def __init__(
        self,
        foundation: Foundation,
        compiled: CompiledForward | None = None,
        warm_buckets: Sequence[Bucket] | None = None,
        available: int | None = None,
    ) -> None:
        self.compiled = compiled
        self.active: list[RequestState] = []
        self._foundation, self._available = foundation, available
        self._warm_buckets = list(warm_buckets or [foundation.defaults.bucket])
        self._budget: ForwardBudget | None = None  # None until measured: there is room for all
        self._last: Bucket | None = None

    def warm_up(self) -> None:
        """Measure how many samples fit in a forward, and compile. Call it first, in the thread that steps."""
        self._budget = budget = measure(self._foundation, self._warm_buckets, self._available)
        log.info("a forward takes %s samples", {str(b): budget.rows(b) for b in self._warm_buckets})
        if self.compiled is not None:
            self.compiled.warm_up(budget)

    def has_room(self, state: RequestState) -> bool:
        """Whether a forward of its bucket has room for a request. There is always room for the first."""
        rows = sum(other.rows for other in self.active if other.bucket == state.bucket)
        return self._budget is None or not rows or rows + state.rows <= self._budget.rows(state.bucket)

    def join(self, state: RequestState, lease: Lease) -> None:
        """Encode the prompt and draw the noise. Releases the slots if this raises."""
        try:
            state.denoising = start(self._foundation, state.request.in_slots(lease.slots, state.noise))
        except BaseException:
            lease.release()
            raise
        state.lease, state.admitted = lease, time.monotonic()
        self.active.append(state)

    def leave(self, state: RequestState) -> None:
        """Remove a request and release its slots."""
        assert state.lease is not None
        self.active.remove(state)
        state.lease.release()

    def step(self) -> Step | None:
        """Run one denoising step of the next bucket; None if there are no requests."""
        buckets = list(dict.fromkeys(state.bucket for state in self.active))
        if not buckets:
            return None
        turn = buckets.index(self._last) + 1 if self._last in buckets else 0
        bucket = self._last = buckets[turn % len(buckets)]
        states = [state for state in self.active if state.bucket == bucket]
        adapters = len({use.sha256 for state in states for use in state.request.adapters})
        started = time.monotonic()
        failed = self._forward(states)
        seconds = time.monotonic() - started
        work = sum(map(step_cost, states))
        tenants = Counter(state.request.tenant for state in states)
        for state in states:
            # only those of its own tenant: nobody learns of others
            state.neighbours = max(state.neighbours, tenants[state.request.tenant] - 1)
            state.batch_adapters = max(state.batch_adapters, adapters)
            state.device_seconds += seconds * step_cost(state) / work
        return Step(states, failed, adapters, seconds, work)

    def _forward(self, states: list[RequestState]) -> dict[RequestState, Exception]:
        """Run one forward. If it fails, try each request alone, so that only the faulty one fails."""
        denoisings = {state: state.denoising for state in states if state.denoising is not None}
        before = {state: denoising.index for state, denoising in denoisings.items()}
        try:
            denoise_step(self._foundation, list(denoisings.values()), self.compiled)
            return {}
        except Exception as error:
            if len(states) == 1:
                return {states[0]: error}
            log.warning("a step of %d requests failed (%s); trying each alone", len(states), error)
        failed: dict[RequestState, Exception] = {}
        for state, denoising in denoisings.items():
            if denoising.index == before[state]:  # some may have advanced before one failed
                failed |= self._forward([state])
        return failed


def step_cost(state: RequestState) -> float:
    """The work of one step of a request (`cost_of`)."""
    return cost_of(state.request) / state.request.steps
