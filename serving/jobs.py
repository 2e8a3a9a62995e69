"""The job store: every accepted request in SQL, from `queued` to exactly one final state.

A state changes by one conditional UPDATE (`... WHERE id = ? AND state IN (legal)`), so of two who would end a job at
once one wins and the other gets `IllegalTransition`. What is accepted is committed before it is answered: after a
crash `requeue_unfinished` brings it back to the queue. Times are Unix seconds.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from typing import Any

from sqlalchemy import JSON, Float, Integer, String, create_engine, delete, event, func, select, update
from sqlalchemy.engine import Engine as SqlEngine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from infra.errors import UserError

QUEUED, IN_PROGRESS, COMPLETED, FAILED, CANCELLED = (
    "queued",
    "in_progress",
    "completed",
    "failed",
    "cancelled",
)
STATES = (QUEUED, IN_PROGRESS, COMPLETED, FAILED, CANCELLED)
FINAL = frozenset({COMPLETED, FAILED, CANCELLED})
# state -> the states it may be reached from; back to the queue only when the engine that ran it is gone
LEGAL = {
    QUEUED: frozenset({QUEUED, IN_PROGRESS}),
    IN_PROGRESS: frozenset({QUEUED}),
    COMPLETED: frozenset({IN_PROGRESS}),
    FAILED: frozenset({QUEUED, IN_PROGRESS}),
    CANCELLED: frozenset({QUEUED, IN_PROGRESS}),
}


class IllegalTransition(Exception):
    """The job is not in a state from which the asked one may follow (or is gone)."""


class Base(DeclarativeBase):
    type_annotation_map = {dict[str, Any]: JSON, list[dict[str, Any]]: JSON}  # noqa: RUF012


class Job(Base):
    """One accepted request. `request` is a `serving.requests.VideoRequest` as JSON: all that its frames depend on."""

    __tablename__ = "jobs"

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)  # order of acceptance
    id: Mapped[str] = mapped_column(String(64), unique=True)
    tenant: Mapped[str] = mapped_column(
        String(64), index=True
    )  # who may see it: a prefix of the API key's hash
    state: Mapped[str] = mapped_column(String(16), index=True)
    model: Mapped[str] = mapped_column(String(256))
    request: Mapped[dict[str, Any]]
    progress: Mapped[int] = mapped_column(Integer, default=0)
    attempts: Mapped[int] = mapped_column(Integer, default=0)  # engines that were lost while they ran it
    created_at: Mapped[float] = mapped_column(Float)
    started_at: Mapped[float | None] = mapped_column(Float, default=None)
    finished_at: Mapped[float | None] = mapped_column(Float, default=None)
    expires_at: Mapped[float | None] = mapped_column(Float, index=True, default=None)
    timings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    error_code: Mapped[str | None] = mapped_column(String(64), default=None)
    error_message: Mapped[str | None] = mapped_column(String(2000), default=None)
    result_key: Mapped[str | None] = mapped_column(String(256), default=None)
    result_sha256: Mapped[str | None] = mapped_column(String(64), default=None)
    result_size: Mapped[int | None] = mapped_column(Integer, default=None)


def open_sql(url: str) -> SqlEngine:
    """Connect. SQLite gets WAL (readers never wait for the writer) and full fsync: an answered job is on disk."""
    sql = create_engine(url, pool_pre_ping=True)
    if sql.dialect.name == "sqlite":

        @event.listens_for(sql, "connect")
        def pragmas(connection: Any, _record: Any) -> None:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
                connection.execute(f"PRAGMA {pragma}")

    return sql


class JobStore:
    """Jobs by id. Thread-safe; several processes may share one database."""

    def __init__(self, url: str) -> None:
        try:
            self._sql = open_sql(url)
            Base.metadata.create_all(self._sql)
        except SQLAlchemyError as error:
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            raise UserError(
                f"the job database {url} cannot be opened ({reason}); give a writable --data-dir or a database URL.",
                status=503,
                code="database_unavailable",
            ) from error
        self._session: sessionmaker[Session] = sessionmaker(self._sql, expire_on_commit=False)

    def close(self) -> None:
        self._sql.dispose()

    def add(self, request: dict[str, Any], *, model: str, tenant: str = "") -> Job:
        """Accept a request: committed when this returns."""
        job = Job(
            id=f"video_{secrets.token_hex(16)}",
            tenant=tenant,
            state=QUEUED,
            model=model,
            request=request,
            progress=0,
            attempts=0,
            created_at=time.time(),
            timings={},
        )
        with self._session.begin() as session:
            session.add(job)
        return job

    def get(self, id: str, *, tenant: str | None = None) -> Job:
        """The job, if it exists and (with `tenant`) belongs to that tenant. Raises UserError 404."""
        with self._session() as session:
            job = session.scalar(select(Job).where(Job.id == id))
        if job is None or (tenant is not None and job.tenant != tenant):
            raise UserError(
                f"there is no video {id[:80]!r}; GET /v1/videos lists yours.",
                status=404,
                code="video_not_found",
            )
        return job

    def state(self, id: str) -> str | None:
        """Its state; None when there is no such job."""
        with self._session() as session:
            return session.scalar(select(Job.state).where(Job.id == id))

    def page(
        self, *, tenant: str | None = None, after: str | None = None, limit: int = 20, order: str = "desc"
    ) -> tuple[list[Job], bool]:
        """A page of jobs by order of acceptance, and whether more follow."""
        query = select(Job)
        if tenant is not None:
            query = query.where(Job.tenant == tenant)
        if after is not None:
            number = self.get(after, tenant=tenant).number
            query = query.where(Job.number < number if order == "desc" else Job.number > number)
        query = query.order_by(Job.number.desc() if order == "desc" else Job.number).limit(limit + 1)
        with self._session() as session:
            jobs = list(session.scalars(query))
        return jobs[:limit], len(jobs) > limit

    def queued(self, limit: int, *, exclude: Iterable[str] = ()) -> list[Job]:
        """The oldest queued jobs."""
        query = (
            select(Job)
            .where(Job.state == QUEUED, Job.id.not_in(list(exclude)))
            .order_by(Job.number)
            .limit(limit)
        )
        with self._session() as session:
            return list(session.scalars(query))

    def count(self) -> dict[str, int]:
        """Number of jobs by state."""
        with self._session() as session:
            rows = session.execute(select(Job.state, func.count()).group_by(Job.state))
            return {state: number for state, number in rows.tuples()}  # noqa: C416 (dict() loses the types)

    def start(self, id: str) -> None:
        """queued -> in_progress."""
        self._move(id, IN_PROGRESS, started_at=time.time())

    def requeue(self, id: str) -> None:
        """Back to the queue: the engine is gone, the job is not."""
        self._move(id, QUEUED, started_at=None, progress=0, timings={}, attempts=Job.attempts + 1)

    def requeue_unfinished(self) -> int:
        """After a restart: whatever was in progress is queued again. Returns how many."""
        values: dict[str, Any] = {
            "state": QUEUED,
            "started_at": None,
            "progress": 0,
            "timings": {},
            "attempts": Job.attempts + 1,
        }
        with self._session.begin() as session:
            return session.execute(update(Job).where(Job.state == IN_PROGRESS).values(**values)).rowcount  # type: ignore[attr-defined]

    def note(self, id: str, *, progress: int, timings: dict[str, Any]) -> None:
        """Progress in percent and timings so far; without effect once the job has ended."""
        with self._session.begin() as session:
            session.execute(
                update(Job)
                .where(Job.id == id, Job.state == IN_PROGRESS)
                .values(progress=progress, timings=timings)
            )

    def complete(
        self, id: str, *, key: str, sha256: str, size: int, timings: dict[str, Any], expires_at: float
    ) -> None:
        """in_progress -> completed, with its result under `key`."""
        result = {"result_key": key, "result_sha256": sha256, "result_size": size, "expires_at": expires_at}
        self._move(id, COMPLETED, progress=100, timings=timings, finished_at=time.time(), **result)

    def fail(self, id: str, *, code: str, message: str) -> None:
        """-> failed."""
        self._move(id, FAILED, error_code=code, error_message=message[:2000], finished_at=time.time())

    def cancel(self, id: str) -> None:
        """-> cancelled."""
        self._move(id, CANCELLED, finished_at=time.time())

    def delete(self, id: str) -> None:
        """Forget a job that has ended. Raises IllegalTransition when it runs."""
        with self._session.begin() as session:
            if not session.execute(delete(Job).where(Job.id == id, Job.state.in_(FINAL))).rowcount:  # type: ignore[attr-defined]
                raise IllegalTransition(f"{id} has not ended")

    def expired(self, now: float) -> list[Job]:
        """Jobs whose result has outlived its time."""
        with self._session() as session:
            return list(session.scalars(select(Job).where(Job.expires_at < now, Job.result_key.is_not(None))))

    def forget_result(self, id: str) -> None:
        """Its result is deleted; the job keeps its row."""
        with self._session.begin() as session:
            session.execute(update(Job).where(Job.id == id).values(result_key=None))

    def _move(self, id: str, state: str, **values: Any) -> None:
        with self._session.begin() as session:
            statement = (
                update(Job).where(Job.id == id, Job.state.in_(LEGAL[state])).values(state=state, **values)
            )
            if not session.execute(statement).rowcount:  # type: ignore[attr-defined]
                now = session.scalar(select(Job.state).where(Job.id == id))
                raise IllegalTransition(f"{id}: {now or 'gone'} -> {state}")
