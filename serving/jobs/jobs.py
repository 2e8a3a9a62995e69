"""The job store: every accepted request in SQL, from `queued` to exactly one final state.

A job that needs an appearance which is still being learned begins as `learning` and is queued when it is there.

A state changes by one conditional UPDATE (`... WHERE id = ? AND state IN (legal)`). If two processes end a
job at once, one wins and the other gets `IllegalTransition`. A job is committed before its request is
answered. `serving.jobs.claims` decides who runs a job, also after a dispatcher's death. Times are Unix seconds.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import Any

from sqlalchemy import delete, func, or_, select, update

from infra.errors import NotFound
from serving.jobs import usage
from serving.jobs.database import Database, Delivery, Job

QUEUED, IN_PROGRESS, COMPLETED, FAILED, CANCELLED, LEARNING = (
    "queued",
    "in_progress",
    "completed",
    "failed",
    "cancelled",
    "learning",
)
STATES = (
    QUEUED,
    IN_PROGRESS,
    COMPLETED,
    FAILED,
    CANCELLED,
    LEARNING,
)  # clients know the order: add at the end
FINAL = frozenset({COMPLETED, FAILED, CANCELLED})
STARTABLE = (QUEUED, IN_PROGRESS)  # those that a dispatcher may have
UNFINISHED = (*STARTABLE, LEARNING)
ID = re.compile("video_[0-9a-f]{32}")
# state -> the states it may be reached from; a started job is requeued if its engine or dispatcher is lost
LEGAL = {
    QUEUED: frozenset({QUEUED, IN_PROGRESS}),
    IN_PROGRESS: frozenset({QUEUED}),
    COMPLETED: frozenset({IN_PROGRESS}),
    FAILED: frozenset(UNFINISHED),
    CANCELLED: frozenset(UNFINISHED),
}
HALF = 50  # percent of a job whose appearance has been learned
# columns of a job that returns to the queue
UNBEGUN: dict[str, Any] = {
    "owner": None,
    "lease_until": None,
    "started_at": None,
    "progress": 0,
    "timings": {},
}


class IllegalTransition(Exception):
    """The job's state does not allow the transition, or the job is another dispatcher's, or gone."""


class JobStore:
    """Jobs by id. Thread-safe; several processes may share one database.

    A transition with `owner` applies only if that dispatcher (still) owns the job; without, to any owner.
    """

    def __init__(self, database: Database | str) -> None:
        self.database = database if isinstance(database, Database) else Database(database)
        self._session = self.database.sessions

    def close(self) -> None:
        self.database.close()

    def add(self, request: dict[str, Any], *, model: str, tenant: str = "", **fields: Any) -> Job:
        """Accept a request; it is committed when this returns. `fields`: further columns."""
        job = new_job(request, model=model, tenant=tenant, **fields)
        with self._session.begin() as session:
            session.add(job)
        return job

    def get(self, id: str, *, tenant: str | None = None) -> Job:
        """The job, if it exists and (with `tenant`) belongs to that tenant. Raises NotFound."""
        job = None
        if ID.fullmatch(id):  # PostgreSQL would refuse a NUL
            with self._session() as session:
                job = session.scalar(select(Job).where(Job.id == id))
        if job is None or (tenant is not None and job.tenant != tenant):
            raise NotFound(
                f"there is no video {id[:80]!r}; GET /v1/videos lists yours.",
                code="video_not_found",
            )
        return job

    def state(self, id: str) -> str | None:
        """The job's state; None if there is no such job."""
        with self._session() as session:
            return session.scalar(select(Job.state).where(Job.id == id))

    def page(
        self, *, tenant: str | None = None, after: str | None = None, limit: int = 20, order: str = "desc"
    ) -> tuple[list[Job], bool]:
        """A page of jobs in order of acceptance, and whether more follow."""
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

    def count(self) -> dict[str, int]:
        """Number of jobs by state."""
        with self._session() as session:
            rows = session.execute(select(Job.state, func.count()).group_by(Job.state))
            return {state: number for state, number in rows.tuples()}  # noqa: C416 (dict() loses the types)

    def oldest_queued(self) -> float | None:
        """When the oldest queued job was accepted; None if no job is queued."""
        with self._session() as session:
            return session.scalar(select(func.min(Job.created_at)).where(Job.state == QUEUED))

    def unclaimed(self, most: int, foundation: str | None = None) -> tuple[list[dict[str, Any]], int]:
        """The requests of up to `most` queued, unclaimed jobs (of a foundation), and the number of all."""
        waiting = [Job.state == QUEUED, Job.owner.is_(None)]
        if foundation is not None:
            waiting.append(or_(Job.foundation == foundation, Job.foundation.is_(None)))
        with self._session() as session:
            number = session.scalar(select(func.count()).select_from(Job).where(*waiting)) or 0
            return list(session.scalars(select(Job.request).where(*waiting).limit(most))), number

    def learning(self, foundation: str) -> list[Job]:
        """The jobs of a foundation that wait for an appearance to be learned, oldest first."""
        waiting = (Job.state == LEARNING, Job.foundation == foundation)
        with self._session() as session:
            return list(session.scalars(select(Job).where(*waiting).order_by(Job.number)))

    def note_learning(self, id: str, progress: int) -> None:
        """Record the progress in percent of a job that waits for an appearance."""
        mine = update(Job).where(Job.id == id, Job.state == LEARNING)
        with self._session.begin() as session:
            session.execute(mine.values(progress=progress))

    def learned(self, id: str, request: dict[str, Any]) -> bool:
        """learning -> queued, with the request that names what was learned. False if it was not waiting any more."""
        mine = update(Job).where(Job.id == id, Job.state == LEARNING)
        values = {"state": QUEUED, "request": request, "progress": HALF}
        with self._session.begin() as session:
            moved = session.execute(
                mine.values(**values).returning(Job.id), execution_options={"synchronize_session": False}
            )
            return moved.one_or_none() is not None

    def start(self, id: str, *, owner: str | None = None) -> None:
        """queued -> in_progress."""
        self._move(id, IN_PROGRESS, owner, started_at=time.time())

    def requeue(self, id: str, *, owner: str | None = None, attempted: bool = True) -> None:
        """Return a job to the queue after its engine was lost. `attempted`: it may have been the cause."""
        self._move(id, QUEUED, owner, **UNBEGUN, attempts=Job.attempts + int(attempted))

    def note(self, id: str, *, progress: int, timings: dict[str, Any], owner: str | None = None) -> None:
        """Record progress in percent and timings so far; no effect once the job has ended."""
        statement = update(Job).where(Job.id == id, Job.state == IN_PROGRESS)
        if owner is not None:
            statement = statement.where(Job.owner == owner)
        with self._session.begin() as session:
            session.execute(statement.values(progress=progress, timings=timings))

    def complete(
        self,
        id: str,
        *,
        key: str,
        sha256: str,
        size: int,
        timings: dict[str, Any],
        expires_at: float,
        neighbours: int | None = None,
        owner: str | None = None,
    ) -> None:
        """in_progress -> completed, with its result under `key`; counts the tenant's usage."""
        result = {"result_key": key, "result_sha256": sha256, "result_size": size, "expires_at": expires_at}
        values = {**result, "timings": timings, "neighbours": neighbours}
        self._move(id, COMPLETED, owner, progress=100, finished_at=time.time(), **values)

    def fail(self, id: str, *, code: str, message: str, owner: str | None = None) -> None:
        """-> failed."""
        said = message.replace("\0", "")[:2000]  # PostgreSQL's text holds no NUL
        self._move(id, FAILED, owner, error_code=code, error_message=said, finished_at=time.time())

    def cancel(self, id: str) -> None:
        """-> cancelled."""
        self._move(id, CANCELLED, None, finished_at=time.time())

    def delete(self, id: str) -> None:
        """Remove an ended job; no error if it is gone. Raises IllegalTransition if it has not ended."""
        with self._session.begin() as session:
            session.execute(delete(Job).where(Job.id == id, Job.state.in_(FINAL)))
            if session.scalar(select(Job.state).where(Job.id == id)) is not None:
                raise IllegalTransition(f"{id} has not ended")

    def expired(self, now: float) -> list[Job]:
        """Jobs whose result has expired."""
        with self._session() as session:
            return list(session.scalars(select(Job).where(Job.expires_at < now, Job.result_key.is_not(None))))

    def ended_before(self, time: float, most: int) -> list[str]:
        """Ids of up to `most` jobs that ended before `time`, oldest first."""
        with self._session() as session:
            ended = (Job.state.in_(FINAL), Job.finished_at < time)
            return list(session.scalars(select(Job.id).where(*ended).order_by(Job.finished_at).limit(most)))

    def forget_deliveries(self, time: float) -> None:
        """Remove delivered and abandoned webhook calls created before `time`."""
        with self._session.begin() as session:
            session.execute(delete(Delivery).where(Delivery.next_at.is_(None), Delivery.created_at < time))

    def forget_result(self, id: str) -> None:
        """Record that the job's result was deleted; the row stays."""
        with self._session.begin() as session:
            session.execute(update(Job).where(Job.id == id).values(result_key=None))

    def _move(self, id: str, state: str, by: str | None, **values: Any) -> None:
        """Change the state. With a final state, also store the webhook call that reports it."""
        statement = update(Job).where(Job.id == id, Job.state.in_(LEGAL[state]))
        if by is not None:
            statement = statement.where(Job.owner == by)
        if state in FINAL:
            values = {"owner": None, "lease_until": None, **values}
        told = (Job.tenant, Job.webhook_url, Job.model, Job.request, Job.result_size, Job.timings)
        returning = statement.values(state=state, **values).returning(*told)
        with self._session.begin() as session:
            moved = session.execute(returning, execution_options={"synchronize_session": False}).one_or_none()
            if moved is None:
                now = session.scalar(select(Job.state).where(Job.id == id))
                raise IllegalTransition(f"{id}: {now or 'gone'} -> {state}")
            if state == COMPLETED:
                usage.record(
                    session,
                    job_id=id,
                    tenant=moved.tenant,
                    kind=usage.VIDEO,
                    model=moved.model,
                    frames=usage.whole(moved.request, "frames"),
                    steps=usage.whole(moved.request, "steps"),
                    device_seconds=moved.timings.get("device"),
                    bytes=moved.result_size or 0,
                )
            if state in FINAL and moved.webhook_url is not None:
                session.add(Delivery.of(id, state, moved.tenant, moved.webhook_url))


def new_job(request: dict[str, Any], *, model: str, tenant: str = "", **fields: Any) -> Job:
    """A new job, not yet in a database: queued, or waiting for what it `awaits`."""
    return Job(
        id=f"video_{secrets.token_hex(16)}",
        tenant=tenant,
        state=LEARNING if request.get("awaits") else QUEUED,
        model=model,
        foundation=request.get("foundation"),
        request=request,
        weight=fields.pop("weight", 1.0),
        progress=0,
        attempts=0,
        created_at=time.time(),
        timings={},
        **fields,
    )
