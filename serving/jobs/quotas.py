"""The limits of tenants, checked in the transaction that accepts their work, so they hold on all ingresses together.

A day is a day of UTC. Jobs that end without a result do not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from infra.errors import Throttled, Unauthorized
from serving.jobs.database import Job
from serving.jobs.jobs import UNFINISHED
from serving.jobs.tenant_tables import Tenant, Usage
from serving.jobs.usage import TRAINING, VIDEO, today

DAY = 86_400.0
STORAGE_RETRY = 3600.0  # seconds; storage becomes free when videos expire, or the tenant deletes something


def nothing(id: str) -> int:
    """The bytes of a tenant that stores nothing but videos."""
    return 0


def check_video(session: Session, tenant: str, elsewhere: Callable[[str], int] = nothing) -> None:
    """Raise Throttled if the tenant may not request another video now. In an exclusive transaction it is exact.

    Args:
        elsewhere: as in `check_storage`.
    """
    limits = limits_of(session, tenant)
    if limits is None:
        return
    if limits.videos_per_day is not None:
        mine = select(func.count()).where(Job.tenant == tenant, Job.state.in_(UNFINISHED))
        used = done_today(session, tenant, VIDEO) + (session.scalar(mine) or 0)
        check_daily(used, limits.videos_per_day, "videos")
    check_storage(session, tenant, 0, elsewhere)


def check_training(session: Session, tenant: str, unfinished: int) -> None:
    """Raise Throttled if the tenant may not begin another training now.

    Args:
        unfinished: trainings of the tenant that are accepted and have not ended.
    """
    limits = limits_of(session, tenant)
    if limits is None:
        return
    if limits.trainings_at_once is not None and unfinished >= limits.trainings_at_once:
        raise Throttled(
            f"{limits.trainings_at_once} trainings of yours have not ended, and your quota is "
            f"{limits.trainings_at_once} at once; wait for one, or cancel it.",
            code="quota_exceeded",
        )
    if limits.trainings_per_day is not None:
        used = done_today(session, tenant, TRAINING) + unfinished
        check_daily(used, limits.trainings_per_day, "trainings")


def check_storage(
    session: Session, tenant: str, more: int, elsewhere: Callable[[str], int] = nothing
) -> None:
    """Raise Throttled if the tenant's storage is full, or has no room for `more` bytes.

    Args:
        elsewhere: returns the bytes that the tenant with an id stores besides its videos. Must not block.
    """
    limits = limits_of(session, tenant)
    if limits is None or limits.storage_bytes is None:
        return
    used = stored_bytes(session, tenant) + elsewhere(limits.id)
    if used + more > limits.storage_bytes or used >= limits.storage_bytes:
        raise Throttled(
            f"you store {used} bytes, and your quota is {limits.storage_bytes}; delete videos, files or concepts first.",
            code="quota_exceeded",
            retry_after=STORAGE_RETRY,
        )


def limits_of(session: Session, tenant: str) -> Tenant | None:
    """The limits of a tenant, if it has any. Raises Unauthorized while it is being erased."""
    row = session.get(Tenant, tenant)
    if row is not None and row.erasing_at is not None:
        raise Unauthorized("no valid API key; send `Authorization: Bearer KEY`.")
    return row


def stored_bytes(session: Session, tenant: str) -> int:
    """Bytes of a tenant's videos that have not expired."""
    query = select(func.sum(Job.result_size)).where(Job.tenant == tenant, Job.result_key.is_not(None))
    return session.scalar(query) or 0


def done_today(session: Session, tenant: str, kind: str) -> int:
    """The number of a tenant's jobs that ended with a result today, deleted ones included."""
    query = select(func.count()).where(Usage.tenant == tenant, Usage.kind == kind, Usage.day == today())
    return session.scalar(query) or 0


def check_daily(used: int, most: int, what: str) -> None:
    """Raise Throttled if `used` has reached the number of a day."""
    if used >= most:
        raise Throttled(
            f"your daily quota of {what} is {most}, and {used} of today are finished or under way; the count starts again at midnight UTC.",
            code="quota_exceeded",
            retry_after=DAY - time.time() % DAY,
        )
