"""Which dispatcher runs which job: claims with a lease, in fair turns.

A job is taken by exactly one dispatcher: SELECT ... FOR UPDATE SKIP LOCKED on PostgreSQL; on SQLite, which has one
writer at a time, the one UPDATE that both share. The owner renews its lease; when it stops doing so it is held dead,
and its jobs (no others) are back in the queue. Claims are counted and made in one exclusive transaction, so all
dispatchers together have no more in hand than engines are to be given.

Turns go round the tenants: a tenant's third job in hand or in the queue waits for everybody's second one, so that
thousands of jobs of one do not hold up the others. A job of weight w counts as 1/w of a turn.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Select, Subquery, case, func, select, update
from sqlalchemy.orm import Session

from serving.database import Database, Job
from serving.jobs import IN_PROGRESS, QUEUED, UNBEGUN, UNFINISHED

LEASE = 10.0  # seconds after its last sign that a dispatcher is held dead
SUSPECT_ATTEMPTS = 2  # from here on a job runs alone, so that it takes no neighbour with it
QUIET = {"synchronize_session": False}


def turns() -> tuple[Subquery, ColumnElement[float]]:
    """(number, turn) of every job that nobody has claimed, and the turn to order by."""
    waiting = (Job.state == QUEUED, Job.owner.is_(None))
    in_hand = (
        select(Job.tenant, func.count().label("jobs"))
        .where(Job.state.in_(UNFINISHED), Job.owner.is_not(None))
        .group_by(Job.tenant)
        .subquery()
    )
    place = func.row_number().over(partition_by=(Job.tenant, Job.weight), order_by=Job.number)
    turn = (place + func.coalesce(in_hand.c.jobs, 0)) / Job.weight
    ranked = (
        select(Job.number, Job.id, turn.label("turn"))
        .outerjoin(in_hand, in_hand.c.tenant == Job.tenant)
        .where(*waiting)
        .subquery()
    )
    return ranked, ranked.c.turn


class Claims:
    """The queue of one database, for many dispatchers."""

    def __init__(self, database: Database, lease: float = LEASE) -> None:
        self._database, self._session, self.lease = database, database.sessions, lease

    def claim(self, owner: str, limit: int, together: int | None = None) -> list[Job]:
        """Take up to `limit` jobs whose turn it is; they are this owner's until its lease runs out.

        Args:
            together: most jobs that all owners may have in hand, those that must run alone aside: these wait at
                their owner, one after another, and must not hold up everybody's; None: any number.
        """
        ranked, turn = turns()
        picked = (
            select(Job.number)
            .join(ranked, ranked.c.number == Job.number)
            .where(Job.state == QUEUED, Job.owner.is_(None))  # again on the locked row, as it is by then
            .order_by(turn, Job.number)
        )
        if together is None:
            with self._session.begin() as session:
                return self._take(session, owner, picked, limit)
        taken = (Job.state.in_(UNFINISHED), Job.owner.is_not(None), Job.attempts < SUSPECT_ATTEMPTS)
        with self._database.exclusive() as session:
            room = together - (session.scalar(select(func.count()).where(*taken)) or 0)
            return self._take(session, owner, picked, min(limit, room)) if room > 0 else []

    def claim_late(self, owner: str, limit: int) -> list[Job]:
        """Take up to `limit` jobs whose deadline has passed in the queue, whoever's turn it is."""
        late = Job.request["deadline"].as_float() <= time.time()
        waiting = select(Job.number).where(Job.state == QUEUED, Job.owner.is_(None), late)
        with self._session.begin() as session:
            return self._take(session, owner, waiting, limit)

    def _take(self, session: Session, owner: str, jobs: Select[int], limit: int) -> list[Job]:
        picked = jobs.limit(limit).with_for_update(skip_locked=True, of=Job).cte("picked")
        statement = (
            update(Job)
            .where(Job.number.in_(select(picked.c.number)))
            .values(owner=owner, lease_until=self._database.now() + self.lease)
            .returning(Job)
        )
        taken = session.scalars(statement, execution_options=QUIET)
        return sorted(taken, key=lambda job: job.number)

    def renew(self, owner: str, ids: Collection[str]) -> None:
        """The owner lives and has these in hand; what it forgot comes free when its lease runs out."""
        statement = (
            update(Job)
            .where(Job.owner == owner, Job.id.in_(ids))
            .values(lease_until=self._database.now() + self.lease)
        )
        with self._session.begin() as session:
            session.execute(statement, execution_options=QUIET)

    def held(self, owner: str) -> set[str]:
        """Ids of the unfinished jobs that are this owner's: neither ended by others nor taken over."""
        with self._session() as session:
            query = select(Job.id).where(Job.owner == owner, Job.state.in_(UNFINISHED))
            return set(session.scalars(query))

    def reclaim(self) -> int:
        """Back to the queue with the jobs of dead dispatchers. Returns how many."""
        lost = (Job.owner.is_not(None), Job.lease_until < self._database.now())
        attempts = Job.attempts + case((Job.state == IN_PROGRESS, 1), else_=0)
        statement = update(Job).where(Job.state.in_(UNFINISHED), *lost)
        with self._session.begin() as session:
            values = {**UNBEGUN, "state": QUEUED, "attempts": attempts}
            return session.execute(statement.values(values), execution_options=QUIET).rowcount  # type: ignore[attr-defined]

    def release(self, owner: str) -> int:
        """The owner stops: its unfinished jobs are free at once. Returns how many."""
        statement = update(Job).where(Job.state.in_(UNFINISHED), Job.owner == owner)
        with self._session.begin() as session:
            values = {**UNBEGUN, "state": QUEUED}
            return session.execute(statement.values(values), execution_options=QUIET).rowcount  # type: ignore[attr-defined]

    def positions(self, jobs: Sequence[Job]) -> dict[str, int]:
        """How many jobs are before each queued one in the queue; 0 for one that a dispatcher has taken."""
        queued = [job for job in jobs if job.state == QUEUED]
        places = {job.id: 0 for job in queued if job.owner is not None}
        waiting = [job.id for job in queued if job.owner is None]
        if not waiting:
            return places
        ranked, turn = turns()
        order = func.row_number().over(order_by=(turn, ranked.c.number)) - 1
        placed = select(ranked.c.id, order.label("place")).subquery()
        with self._session() as session:
            rows = session.execute(select(placed.c.id, placed.c.place).where(placed.c.id.in_(waiting)))
            places.update({id: place for id, place in rows.tuples()})  # noqa: C416
        return places
