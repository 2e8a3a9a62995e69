"""Chooses the waiting request that joins the batch next.

Requests with loaded adapters take fair turns (`serving.fairness`). A request without a free slot may be
passed by others a limited number of times. Then the least used slots are reserved for it: new requests
may not use them, so they drain, while requests for other loaded adapters still pass. A cold adapter thus
delays requests for the adapters in those slots. This is intended: otherwise it could wait forever.
Used only by the engine's thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from infra.errors import Unavailable, UserError
from serving.adapters.adapter_cache import AdapterCache
from serving.adapters.slots import Key, Lease
from serving.engine.budget import ForwardBudget
from serving.engine.request_state import RequestState
from serving.fairness import FairQueue
from serving.requests import cost_of


class Scheduler:
    """The queue in front of the batch.

    Args:
        max_batch: maximum number of requests being denoised at once.
        max_overtakes: how many others may pass a request that waits for a slot before one is reserved for it.
    """

    def __init__(self, tiers: AdapterCache, *, max_batch: int, max_overtakes: int) -> None:
        self._tiers, self._slots = tiers, tiers.slots
        self._max_batch, self._max_overtakes = max_batch, max_overtakes
        self.budget: ForwardBudget | None = None  # None until measured: only max_batch limits
        self._ready: FairQueue[RequestState] = FairQueue()
        self._blocked: dict[RequestState, None] = {}  # requests of this round that found no slot
        self._kept: tuple[RequestState, set[Key]] | None = (
            None  # a request passed too often, and the adapters whose slots drain for it
        )

    def __contains__(self, ticket: RequestState) -> bool:
        return ticket in self._ready

    def add(self, ticket: RequestState) -> None:
        """Add a request whose adapters are loaded."""
        self._ready.add(ticket, ticket.claim.flow, cost_of(ticket.request), ticket.claim.order)

    def remove(self, ticket: RequestState) -> None:
        """Remove a request that has ended."""
        self._ready.remove(ticket)
        if self._kept is not None and self._kept[0] is ticket:
            self._kept = None

    def round(
        self, active: Sequence[RequestState]
    ) -> Iterator[tuple[RequestState, Lease | UserError | None]]:
        """Yield the next requests while there is room in `active`, to which the caller adds them.

        Each comes with its slots, or with the error why it can never get any, or with None: one of its
        adapters was evicted from host memory and must be loaded again.
        """
        self._blocked.clear()
        found: Lease | UserError | None = None

        def admissible(ticket: RequestState) -> bool:
            nonlocal found
            if ticket in self._blocked or not self._has_room(ticket, active) or self._keeps_out(ticket):
                return False
            if not self._slots.can_hold(ticket.claim.keys):
                found = slots_pinned()
                return True
            images = self._tiers.images(ticket.claim)
            found = None if images is None else self._slots.acquire(ticket.request.adapters, images)
            if images is not None and found is None:
                self._blocked[ticket] = None
                return False
            return True

        while len(active) < self._max_batch and (ticket := self._ready.pick(admissible)) is not None:
            if isinstance(found, Lease):
                for other in self._blocked:
                    other.overtaken += 1
            if self._kept is not None and self._kept[0] is ticket:
                self._kept = None
            yield ticket, found
        if self._kept is None:
            late = next((ticket for ticket in self._blocked if ticket.overtaken >= self._max_overtakes), None)
            if late is not None:
                self._kept = (late, self._slots.victims(late.claim.keys))

    def _has_room(self, ticket: RequestState, active: Sequence[RequestState]) -> bool:
        """Whether a forward of its bucket has room for it."""
        rows = sum(other.rows for other in active if other.bucket == ticket.bucket)
        return self.budget is None or not rows or rows + ticket.rows <= self.budget.rows(ticket.bucket)

    def _keeps_out(self, ticket: RequestState) -> bool:
        """Whether it must wait for a request that was passed too often."""
        if self._kept is None or self._kept[0] is ticket:
            return False
        keys, paths = ticket.claim.keys, {path for path, _ in self._kept[0].claim.keys}
        newcomer = any(path in paths for path, _ in self._slots.missing(keys))
        return newcomer or not self._kept[1].isdisjoint(keys)

    def worth_warming(self) -> list[Key]:
        """Adapters that the next requests in the queue lack, if there may be spare slots."""
        if self._kept is not None:
            return []
        nearest = list(self._ready)[: self._max_batch]
        keys = self._slots.missing(key for ticket in nearest for key in ticket.claim.keys)
        return keys if keys and self._slots.has_spare(keys) else []


def slots_pinned() -> UserError:
    """The error of a request for which pinned adapters leave too few slots."""
    return Unavailable(
        "pinned adapters leave too few slots for this request; unpin some, or start with more slots.",
        code="slots_pinned",
    )
