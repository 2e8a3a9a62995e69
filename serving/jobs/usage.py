"""What tenants used: one row per job, written in the transaction of its end, so a job counts once or not at all.

A row is found by the job's id. Ending a job again, after a crash or by another process, adds nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, RowMapping, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from serving.jobs.database import Database
from serving.jobs.tenant_tables import Usage

VIDEO, TRAINING = "video", "training"


@dataclass(frozen=True)
class UsageTotal:
    """The sums of a group of jobs. `day` and `model` are empty where it is not grouped by them."""

    tenant: str
    kind: str  # video or training
    day: str  # 2026-12-31, UTC
    model: str
    jobs: int
    frames: int
    steps: int
    device_seconds: float  # of the jobs for which it is known
    bytes: int


def today(at: float | None = None) -> str:
    """The day (UTC) of a time in Unix seconds, by default now."""
    return f"{datetime.fromtimestamp(time.time() if at is None else at, UTC):%Y-%m-%d}"


def record(
    session: Session,
    *,
    job_id: str,
    tenant: str,
    kind: str,
    model: str,
    frames: int = 0,
    steps: int = 0,
    device_seconds: float | None = None,
    bytes: int = 0,
) -> None:
    """Add a job's usage in the transaction of its end; no effect if it is recorded already."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    now = time.time()
    row = {
        "job_id": job_id,
        "tenant": tenant,
        "kind": kind,
        "day": today(now),
        "model": model,
        "frames": frames,
        "steps": steps,
        "device_seconds": device_seconds,
        "bytes": bytes,
        "at": now,
    }
    session.execute(insert(Usage).values(row).on_conflict_do_nothing(index_elements=["job_id"]))


def whole(request: object, name: str) -> int:
    """A number of a stored request; 0 if the row is damaged, which must not keep its job from ending."""
    value = request.get(name) if isinstance(request, dict) else None
    return value if isinstance(value, int) and 0 <= value < 2**31 else 0


class UsageLog:
    """The usage in a database. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._session = database.sessions

    def record_training(self, tenant: str, job_id: str, steps: int, seconds: float, model: str) -> None:
        """Count a training that ended; a repeated call with its id adds nothing.

        Args:
            steps: optimizer steps that it made.
            seconds: of a device.
            model: as the tenant names it, such as `foundation:orbit@1`.
        """
        with self._session.begin() as session:
            record(
                session,
                job_id=job_id,
                tenant=tenant,
                kind=TRAINING,
                model=model,
                steps=steps,
                device_seconds=seconds,
            )

    def by_day(self, tenant: str | None, first: str = "", last: str = "9999-12-31") -> list[UsageTotal]:
        """Sums by day, kind and model (and tenant, if it is None: of all), of the days from first to last."""
        columns = (Usage.tenant, Usage.kind, Usage.day, Usage.model)
        where: list[ColumnElement[bool]] = [Usage.day >= first, Usage.day <= last]
        if tenant is not None:
            where.append(Usage.tenant == tenant)
        with self._session() as session:
            query = select(*columns, *SUMS).where(*where).group_by(*columns)
            ordered = query.order_by(Usage.day, Usage.tenant, Usage.kind, Usage.model)
            return [total_of(row) for row in session.execute(ordered).mappings()]

    def totals(self) -> Sequence[UsageTotal]:
        """Sums by tenant and kind, of all time."""
        with self._session() as session:
            query = select(Usage.tenant, Usage.kind, *SUMS).group_by(Usage.tenant, Usage.kind)
            return [total_of(row) for row in session.execute(query).mappings()]


def total_of(row: RowMapping) -> UsageTotal:
    """Sums as Python's numbers (PostgreSQL's sum of large integers is a decimal)."""
    return UsageTotal(
        tenant=row["tenant"],
        kind=row["kind"],
        day=row.get("day", ""),
        model=row.get("model", ""),
        jobs=int(row["jobs"]),
        frames=int(row["frames"]),
        steps=int(row["steps"]),
        device_seconds=float(row["device_seconds"]),
        bytes=int(row["bytes"]),
    )


SUMS = (
    func.count().label("jobs"),
    func.sum(Usage.frames).label("frames"),
    func.sum(Usage.steps).label("steps"),
    func.coalesce(func.sum(Usage.device_seconds), 0.0).label("device_seconds"),
    func.sum(Usage.bytes).label("bytes"),
)
