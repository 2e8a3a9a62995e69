"""The requests being denoised, and one step of them. Used by the engine's thread alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from models.denoise import Predict, denoise_step, start
from models.foundation import Bucket, Foundation
from serving.requests import cost_of
from serving.slots import Lease
from serving.tickets import Ticket

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """One step of one bucket's requests."""

    tickets: list[Ticket]  # all that were in it
    failed: Mapping[Ticket, Exception]  # of these, those that it was the end of
    adapters: int  # distinct ones
    seconds: float
    work: float  # pixels through the denoiser


def probe(device: torch.device) -> None:
    """Raises when the device is lost: after some errors of CUDA every later call of the process fails."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Batch:
    """Active requests, of any buckets; a forward takes those of one, in turns.

    Args:
        predict: makes the forwards; None: the foundation's own.
    """

    def __init__(self, foundation: Foundation, predict: Predict | None = None) -> None:
        self._foundation, self._predict = foundation, predict
        self.tickets: list[Ticket] = []
        self._last: Bucket | None = None

    def join(self, ticket: Ticket, lease: Lease) -> None:
        """Encode the prompt, draw the noise. Raises what these raise, and then has given the slots back."""
        try:
            ticket.state = start(self._foundation, ticket.request.in_slots(lease.slots))
        except BaseException:
            lease.release()
            raise
        ticket.lease, ticket.admitted = lease, time.monotonic()
        self.tickets.append(ticket)

    def leave(self, ticket: Ticket) -> None:
        """Its place and its slots are free."""
        assert ticket.lease is not None
        self.tickets.remove(ticket)
        ticket.lease.release()

    def step(self) -> Step | None:
        """One denoising step of the bucket whose turn it is; None when there is nothing to step."""
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

    def _forward(self, tickets: list[Ticket]) -> dict[Ticket, Exception]:
        """When it fails, each is tried alone, so that only the guilty one ends."""
        states = {ticket: ticket.state for ticket in tickets if ticket.state is not None}
        before = {ticket: state.index for ticket, state in states.items()}
        try:
            denoise_step(self._foundation, list(states.values()), self._predict)
            return {}
        except Exception as error:
            if len(tickets) == 1:
                return {tickets[0]: error}
            log.warning("a step of %d failed (%s); trying each alone", len(tickets), error)
        failed: dict[Ticket, Exception] = {}
        for ticket, state in states.items():
            if state.index == before[ticket]:  # some may have advanced before one failed
                failed |= self._forward([ticket])
        return failed
