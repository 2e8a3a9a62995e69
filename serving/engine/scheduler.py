"""Chooses the waiting requests that join the batch.

Requests with loaded adapters take fair turns (`serving.fairness`). A request without a free slot may be
overtaken by others a limited number of times. Then the least used slots are reserved for it: new requests
may not use them, so they drain, while requests for other loaded adapters still pass. A cold adapter thus
delays requests for the adapters in those slots. This is intended: otherwise it could wait forever.
Used only by the engine's thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from infra.errors import Unavailable, UserError
from serving.adapters.adapter_cache import AdapterCache
from serving.adapters.slots import Key, Lease
from serving.engine.batch import Batch
from serving.engine.request_state import RequestState
from serving.fairness import FairQueue
from serving.requests import cost_of


@dataclass(frozen=True)
class Reservation:
    """A request that was overtaken too often, and the adapters whose slots drain for it."""

    state: RequestState
    draining: set[Key]


class Scheduler:
    """The queue in front of the batch.

    Args:
        max_batch: maximum number of requests being denoised at once.
        max_overtakes: how many others may overtake a request that waits for a slot before one is reserved
            for it.
    """

    def __init__(self, adapters: AdapterCache, *, max_batch: int, max_overtakes: int) -> None:
        self._adapters, self._slots = adapters, adapters.slots
        self._max_batch, self._max_overtakes = max_batch, max_overtakes
        self._queue: FairQueue[RequestState] = FairQueue()
        self._blocked: dict[RequestState, None] = {}  # requests that found no slot in this round
        self._reservation: Reservation | None = None

    def add(self, state: RequestState) -> None:
        """Add a request whose adapters are loaded."""
        self._queue.add(state, state.claim.flow, cost_of(state.request), state.claim.order)

    def remove(self, state: RequestState) -> None:
        """Remove a request that has ended, if it is here."""
        self._queue.remove(state)
        self._end_reservation(state)

    def schedule(self, batch: Batch) -> Iterator[tuple[RequestState, Lease | UserError | None]]:
        """Yield the next requests while there is room in the batch, to which the caller adds them.

        Each comes with its slots, or with the error why it can never get any, or with None: one of its
        adapters was evicted from host memory and must be loaded again.
        """
        self._blocked.clear()
        found: Lease | UserError | None = None

        def admissible(state: RequestState) -> bool:
            nonlocal found
            if state in self._blocked or not batch.has_room(state) or self._must_wait(state):
                return False
            if not self._slots.can_hold(state.claim.keys):
                found = slots_pinned()
                return True
            images = self._adapters.images(state.claim)
            found = None if images is None else self._slots.acquire(state.request.adapters, images)
            if images is not None and found is None:
                self._blocked[state] = None
                return False
            return True

        while len(batch.active) < self._max_batch and (state := self._queue.pick(admissible)) is not None:
            if isinstance(found, Lease):
                for other in self._blocked:
                    other.overtaken += 1
            self._end_reservation(state)
            yield state, found
        if self._reservation is None:
            overdue = next((one for one in self._blocked if one.overtaken >= self._max_overtakes), None)
            if overdue is not None:
                self._reservation = Reservation(overdue, self._slots.victims(overdue.claim.keys))

    def _end_reservation(self, state: RequestState) -> None:
        if self._reservation is not None and self._reservation.state is state:
            self._reservation = None

    def _must_wait(self, state: RequestState) -> bool:
        """Whether a request must leave slots to the one with the reservation."""
        if self._reservation is None or self._reservation.state is state:
            return False
        keys, paths = state.claim.keys, {path for path, _ in self._reservation.state.claim.keys}
        needs_slot = any(path in paths for path, _ in self._slots.missing(keys))
        return needs_slot or not self._reservation.draining.isdisjoint(keys)

    def worth_warming(self) -> list[Key]:
        """Adapters that the next requests in the queue lack, if there may be spare slots."""
        if self._reservation is not None:
            return []
        nearest = list(self._queue)[: self._max_batch]
        keys = self._slots.missing(key for state in nearest for key in state.claim.keys)
        return keys if keys and self._slots.has_spare(keys) else []


def slots_pinned() -> UserError:
    """The error of a request for which pinned adapters leave too few slots."""
    return Unavailable(
        "pinned adapters leave too few slots for this request; unpin some, or start the server with more slots.",
        code="slots_pinned",
    )
