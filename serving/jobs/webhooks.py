"""Webhooks: report a job's end to the URL in its request, signed according to Standard Webhooks.

A call is a row that is written together with the job's end, so it survives the death of processes. It is
repeated with growing pauses until the receiver answers 2xx. It may arrive more than once, with the same
`webhook-id`. Signing secrets are never in the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime

import httpcore
from pydantic import SecretStr
from sqlalchemy import case, delete, or_, select, update
from standardwebhooks import Webhook

from infra.errors import InvalidInput, UserError
from serving.jobs.addresses import Network, check_url, post
from serving.jobs.claims import QUIET
from serving.jobs.database import Database, Delivery
from serving.keys import ApiKey
from serving.threads import CALLED_NAMES, NAMES, Shares

log = logging.getLogger(__name__)
PAUSES = (5.0, 60.0, 300.0, 1800.0, 2 * 3600.0, 6 * 3600.0, 12 * 3600.0)  # seconds before each repeat
POLL = 1.0  # seconds between searches for due calls
SPREAD = 0.2  # random variation of a pause, as a share
TIMEOUT = 15.0  # seconds for one call
LEASE = 60.0  # seconds after which a call of a dead sender is repeated
AT_ONCE = 16  # calls at once; a receiver that hangs holds one for TIMEOUT
PER_TENANT = 4  # maximum calls at once per tenant; also its name lookups at once
KEPT = 7 * 86_400.0  # seconds to keep the row of a finished call
# maximum seconds until the next attempt, by number of attempts
LONGEST = case(
    {attempts: max(LEASE, (1 + SPREAD) * pause) for attempts, pause in enumerate(PAUSES, 1)},
    value=Delivery.attempts,
    else_=LEASE,
)


class Deliveries:
    """The webhook calls in a database, shared by several senders."""

    def __init__(self, database: Database) -> None:
        self._database, self._session = database, database.sessions

    def take(self, but: Collection[str] = ()) -> Delivery | None:
        """Take the call that has been due longest, except of the tenants in `but`; None if there is none.

        It is due again if it is not finished within LEASE. A due time beyond the longest pause possible after
        its attempts comes from a clock that was ahead: such a call is due now.
        """
        now = self._database.now()
        due = or_(Delivery.next_at <= now, Delivery.next_at > now + LONGEST)
        picked = (
            select(Delivery.id)
            .where(due, Delivery.tenant.not_in(but))
            .order_by(Delivery.next_at)
            .limit(1)
            .with_for_update(skip_locked=True)
            .cte("picked")
        )
        statement = (
            update(Delivery)
            .where(Delivery.id.in_(select(picked.c.id)))
            .values(next_at=now + LEASE, attempts=Delivery.attempts + 1)
            .returning(Delivery)
        )
        with self._session.begin() as session:
            return session.scalar(statement, execution_options=QUIET)

    def finish(self, delivery: Delivery, *, error: str | None, pause: float | None) -> None:
        """Record an attempt: delivered (no error), to be repeated after `pause` seconds, or given up."""
        values: dict[str, object] = {
            "error": error[:500].replace("\0", "") if error else None,
            "next_at": None,
        }
        if error is None:
            values["delivered_at"] = time.time()
        elif pause is not None:
            values["next_at"] = self._database.now() + pause
        with self._session.begin() as session:
            session.execute(update(Delivery).where(Delivery.id == delivery.id).values(**values))

    def forget(self, before: float) -> None:
        """Delete the rows of finished calls created before a time."""
        with self._session.begin() as session:
            session.execute(delete(Delivery).where(Delivery.next_at.is_(None), Delivery.created_at < before))


class Webhooks:
    """Checks the URLs of webhooks, and makes the calls.

    Args:
        keys: their secrets sign the calls of their tenants.
        secret: signs the calls of other tenants.
        allowed: non-public networks that may be called.
        observe: called with "delivered", "repeated" or "given_up" for each attempt.
    """

    def __init__(
        self,
        database: Database,
        keys: Sequence[ApiKey],
        secret: SecretStr | None,
        allowed: Sequence[Network],
        observe: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self.deliveries = Deliveries(database)
        self._secrets = {key.tenant: key.webhook_secret for key in keys if key.webhook_secret}
        self._default, self._allowed, self._observe = secret, allowed, observe
        self._check_lookups, self._call_lookups = Shares(NAMES, PER_TENANT), Shares(CALLED_NAMES, PER_TENANT)
        self._wake = asyncio.Event()
        self._calls: dict[asyncio.Task[None], str] = {}  # running call -> its tenant

    async def check(self, url: str, tenant: str) -> None:
        """Raise InvalidInput for a webhook that cannot be delivered: no secret, or a refused address.

        Raises Unavailable if name servers do not answer in time, or the tenant has too many lookups running.
        """
        if self._secret(tenant) is None:
            raise InvalidInput(
                "webhook_url: this server has no secret for signatures; its operator must configure webhook_secret.",
                code="webhook_unsigned",
            )
        await check_url(url, self._allowed, functools.partial(self._check_lookups.run, tenant))

    def notify(self) -> None:
        """Wake the sender: a job or a call has ended."""
        self._wake.set()

    async def run(self) -> None:
        """Make the calls until cancelled. Retries if the database is unreachable."""
        cleaned = 0.0
        try:
            while True:
                self._wake.clear()
                try:
                    if time.monotonic() - cleaned > 3600:
                        cleaned = time.monotonic()
                        await asyncio.to_thread(self.deliveries.forget, time.time() - KEPT)
                    await self._begin_due()
                except Exception:
                    log.exception("webhook calls cannot be started; they wait")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await self._wake.wait()
        finally:
            for call in self._calls:
                call.cancel()
            await asyncio.gather(*self._calls, return_exceptions=True)

    async def _begin_due(self) -> None:
        """Start due calls as long as there are places for them."""
        while len(self._calls) < AT_ONCE:
            full = [tenant for tenant, calls in Counter(self._calls.values()).items() if calls >= PER_TENANT]
            delivery = await asyncio.to_thread(self.deliveries.take, full)
            if delivery is None:
                return
            call = asyncio.create_task(self._deliver(delivery))
            self._calls[call] = delivery.tenant
            call.add_done_callback(self._done)

    def _done(self, call: asyncio.Task[None]) -> None:
        del self._calls[call]
        if not call.cancelled() and (error := call.exception()) is not None:
            # the database is unreachable
            log.error("a webhook call is repeated when its lease expires", exc_info=error)
        self.notify()

    async def _deliver(self, delivery: Delivery) -> None:
        error, pause = await self._attempt(delivery)
        outcome = "delivered" if error is None else "repeated" if pause is not None else "given_up"
        if error is not None:
            log.warning("webhook %s, attempt %d: %s", delivery.id, delivery.attempts, error)
        self._observe(outcome)
        await asyncio.to_thread(self.deliveries.finish, delivery, error=error, pause=pause)

    async def _attempt(self, delivery: Delivery) -> tuple[str | None, float | None]:
        """Make a call. Returns (error, seconds until the next attempt); (None, None) if it was delivered."""
        secret = self._secret(delivery.tenant)
        if secret is None:
            return "the server no longer has a secret for signatures", None
        later = None
        if delivery.attempts <= len(PAUSES):
            later = PAUSES[delivery.attempts - 1] * random.uniform(1 - SPREAD, 1 + SPREAD)
        now = datetime.now(UTC)
        headers = {
            "content-type": "application/json",
            "user-agent": "motiondirector-webhooks",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(secret.get_secret_value()).sign(delivery.id, now, delivery.body),
        }
        try:
            status = await post(
                delivery.url,
                delivery.body.encode(),
                headers,
                allowed=self._allowed,
                timeout=TIMEOUT,
                run=functools.partial(self._call_lookups.run, delivery.tenant),
            )
        except UserError as refused:
            return refused.message, later
        except (
            TimeoutError,
            OSError,
            httpcore.TimeoutException,
            httpcore.NetworkError,
            httpcore.ProtocolError,
        ) as lost:
            return f"{type(lost).__name__}: {lost}", later
        if 200 <= status < 300:
            return None, None
        # 410: the receiver wants no more calls
        return f"the receiver answered {status}", None if status == 410 else later

    def _secret(self, tenant: str) -> SecretStr | None:
        return self._secrets.get(tenant, self._default)
