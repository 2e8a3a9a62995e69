"""The requests being denoised, and their steps. Used only by the engine's thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from models.denoise import Predict, denoise_step, start
from models.foundations.base import Bucket, Foundation
from serving.adapters.slots import Lease
from serving.engine.request_state import RequestState
from serving.requests import cost_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """The result of one step of one bucket's requests."""

    tickets: list[RequestState]  # all requests in the step
    failed: Mapping[RequestState, Exception]  # those that failed, with their errors
    adapters: int  # number of distinct adapters
    seconds: float
    work: float  # denoised pixels


def probe(device: torch.device) -> None:
    """Raise if the device is lost: after some CUDA errors every later call of the process fails."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Batch:
    """Active requests of any buckets. A forward takes the requests of one bucket; buckets take turns.

    Args:
        predict: runs the forwards; None: the foundation's `predict`.
    """

    def __init__(self, foundation: Foundation, predict: Predict | None = None) -> None:
        self._foundation, self._predict = foundation, predict
        self.tickets: list[RequestState] = []
        self._last: Bucket | None = None

    def join(self, ticket: RequestState, lease: Lease) -> None:
        """Encode the prompt and draw the noise. Releases the slots if this raises."""
        try:
            ticket.state = start(self._foundation, ticket.request.in_slots(lease.slots, ticket.noise))
        except BaseException:
            lease.release()
            raise
        ticket.lease, ticket.admitted = lease, time.monotonic()
        self.tickets.append(ticket)

    def leave(self, ticket: RequestState) -> None:
        """Remove a request and release its slots."""
        assert ticket.lease is not None
        self.tickets.remove(ticket)
        ticket.lease.release()

    def step(self) -> Step | None:
        """Run one denoising step of the next bucket; None if there are no requests."""
        buckets = list(dict.fromkeys(ticket.bucket for ticket in self.tickets))
        if not buckets:
            return None
        turn = buckets.index(self._last) + 1 if self._last in buckets else 0
        bucket = self._last = buckets[turn % len(buckets)]
        tickets = [ticket for ticket in self.tickets if ticket.bucket == bucket]
        adapters = len({use.sha256 for ticket in tickets for use in ticket.request.adapters})
        started = time.monotonic()
        failed = self._forward(tickets)
        seconds = time.monotonic() - started
        for ticket in tickets:
            ticket.neighbours = max(ticket.neighbours, len(tickets) - 1)
            ticket.batch_adapters = max(ticket.batch_adapters, adapters)
        work = sum(cost_of(ticket.request) / ticket.request.steps for ticket in tickets)
        return Step(tickets, failed, adapters, seconds, work)

    def _forward(self, tickets: list[RequestState]) -> dict[RequestState, Exception]:
        """Run one forward. If it fails, try each request alone, so that only the faulty one fails."""
        states = {ticket: ticket.state for ticket in tickets if ticket.state is not None}
        before = {ticket: state.index for ticket, state in states.items()}
        try:
            denoise_step(self._foundation, list(states.values()), self._predict)
            return {}
        except Exception as error:
            if len(tickets) == 1:
                return {tickets[0]: error}
            log.warning("a step of %d failed (%s); trying each alone", len(tickets), error)
        failed: dict[RequestState, Exception] = {}
        for ticket, state in states.items():
            if state.index == before[ticket]:  # some may have advanced before one failed
                failed |= self._forward([ticket])
        return failed
