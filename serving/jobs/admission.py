"""Decides whether a request becomes a job: queue limit, quotas of keys, repeated requests.

Counting, deciding and inserting are one exclusive transaction, so the limits are exact, however many
ingresses share the database.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from infra.errors import Conflict, InvalidInput, Throttled
from serving.jobs.database import Database, Job, Rate
from serving.jobs.jobs import LEARNING, QUEUED, UNFINISHED, new_job
from serving.jobs.quotas import check_video, nothing
from serving.jobs.training_tables import Training
from serving.keys import ApiKey

MINUTE = 60.0
BUSY_RETRY = 5.0  # seconds after which a full queue or a tenant may have room again


@dataclass(frozen=True)
class IdempotencyKey:
    """An Idempotency-Key and the SHA-256 of its request's body."""

    key: str
    body_sha256: str

    @classmethod
    def of(cls, key: str | None, body: dict[str, Any]) -> IdempotencyKey | None:
        """Build it from a request. Raises InvalidInput for a malformed key."""
        if key is None:
            return None
        if not re.fullmatch(r"[\x21-\x7e]{1,255}", key):
            raise InvalidInput(
                "Idempotency-Key: expected 1 to 255 visible ASCII characters, such as a UUID.",
                code="invalid_idempotency_key",
            )
        canonical = json.dumps(body, sort_keys=True).encode()
        return cls(key, hashlib.sha256(canonical).hexdigest())


Row = TypeVar("Row", Job, Training)


def find_repeated(
    session: Session, table: type[Row], tenant: str, idempotency: IdempotencyKey | None
) -> Row | None:
    """What an earlier request with this key made. Raises Conflict if that had another body."""
    if idempotency is None:
        return None
    row = session.scalar(
        select(table).where(table.tenant == tenant, table.idempotency_key == idempotency.key)
    )
    if row is not None and row.body_sha256 != idempotency.body_sha256:
        raise Conflict(
            f"this Idempotency-Key was used for {row.id} with another body; use a new key for a new request.",
            code="idempotency_conflict",
        )
    return row


class Admission:
    """Decides who may add a job.

    Args:
        max_queue: maximum number of queued jobs of all tenants.
        elsewhere: as in `serving.jobs.quotas.check_storage`.
    """

    def __init__(self, database: Database, max_queue: int, elsewhere: Callable[[str], int] = nothing) -> None:
        self._database, self._max_queue, self._elsewhere = database, max_queue, elsewhere
        self._numbers = itertools.count()
        self._examined: set[int] = set()
        self._lock = threading.Lock()

    def find(self, tenant: str, idempotency: IdempotencyKey | None) -> Job | None:
        """The job of an earlier identical request. Raises Conflict if the key came with another body."""
        with self._database.sessions() as session:
            return find_repeated(session, Job, tenant, idempotency)

    @contextmanager
    def examine(self) -> Iterator[int]:
        """Count a request as waiting while it is examined, which may take long. Yields a number for `check`.

        Of many simultaneous requests, those that the queue has no room for are thus refused at once.
        """
        with self._lock:
            number = next(self._numbers)
            self._examined.add(number)
        try:
            yield number
        finally:
            with self._lock:
                self._examined.discard(number)

    def check(self, tenant: str, key: ApiKey | None, number: int | None = None) -> None:
        """Raise `Throttled` if `admit` would, as far as known now. Does not count the request.

        Args:
            number: from `examine`: earlier requests under examination count too. None: only the queue counts.
        """
        with self._database.sessions() as session:
            self._check_bounds(session, tenant, key, number)
            self._next_arrival(session, tenant, key)

    def charge(self, tenant: str, key: ApiKey | None) -> None:
        """Count a refused request against the key's rate, because examining it was work too."""
        if key is None or key.requests_per_minute is None:
            return
        with self._database.exclusive() as session, contextlib.suppress(Throttled):
            arrival = self._next_arrival(session, tenant, key)
            session.merge(Rate(tenant=tenant, arrival=arrival))

    def admit(
        self,
        request: dict[str, Any],
        *,
        tenant: str,
        key: ApiKey | None,
        idempotency: IdempotencyKey | None,
        **fields: Any,
    ) -> tuple[Job, bool]:
        """Accept a request. Returns the committed job and whether it is new. `fields` are columns of the job.

        Raises:
            Throttled: the queue is full or the key's quota is exhausted.
            Conflict: the idempotency key was used with another body.
        """
        with self._database.exclusive() as session:
            found = find_repeated(session, Job, tenant, idempotency)
            if found is not None:
                return found, False
            self._check_bounds(session, tenant, key)
            arrival = self._next_arrival(session, tenant, key)
            if arrival is not None:
                session.merge(Rate(tenant=tenant, arrival=arrival))
            if idempotency is not None:
                fields |= {"idempotency_key": idempotency.key, "body_sha256": idempotency.body_sha256}
            job = new_job(request, tenant=tenant, **fields)
            session.add(job)
        return job, True

    def _check_bounds(
        self, session: Session, tenant: str, key: ApiKey | None, number: int | None = None
    ) -> None:
        queued = session.scalar(select(func.count()).where(Job.state.in_((QUEUED, LEARNING)))) or 0
        # Counted after the queue: a request that joins the queue meanwhile is counted at most once.
        with self._lock:
            before = 0 if number is None else sum(other < number for other in self._examined)
        if queued + before >= self._max_queue:
            raise Throttled(
                "the queue is full; try again later.",
                code="queue_full",
                retry_after=BUSY_RETRY,
            )
        check_video(session, tenant, self._elsewhere)
        if key is None or key.concurrency is None:
            return
        unfinished = select(func.count()).where(Job.tenant == tenant, Job.state.in_(UNFINISHED))
        if (session.scalar(unfinished) or 0) >= key.concurrency:
            raise Throttled(
                f"this API key may have at most {key.concurrency} unfinished videos; wait for one, or cancel it.",
                code="concurrency_exceeded",
                retry_after=BUSY_RETRY,
            )

    def _next_arrival(self, session: Session, tenant: str, key: ApiKey | None) -> float | None:
        """The rate's state after one more request. Allows bursts of a minute's worth. None: no limit."""
        if key is None or key.requests_per_minute is None:
            return None
        now = float(session.scalar(select(self._database.now())) or 0.0)
        known = session.scalar(select(Rate.arrival).where(Rate.tenant == tenant)) or 0.0
        interval = MINUTE / key.requests_per_minute
        burst = max(MINUTE, interval)
        if (
            known > now + burst
        ):  # impossible with this clock and rate: a clock was ahead, or the rate was lower
            known = now
        arrival = max(now, known) + interval
        ahead = arrival - now - burst
        if ahead > 0:
            raise Throttled(
                f"this API key may request {key.requests_per_minute:g} videos per minute; wait before the next request.",
                code="rate_exceeded",
                retry_after=ahead,
            )
        return arrival
