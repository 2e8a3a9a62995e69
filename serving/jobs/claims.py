"""Which dispatcher runs which job: claims with a lease, in fair turns.

A job is taken by exactly one dispatcher: SELECT ... FOR UPDATE SKIP LOCKED on PostgreSQL; on SQLite, which has one
writer at a time, the one UPDATE that both share. The owner renews its lease; when it stops doing so it is held dead,
and its jobs (no others) are back in the queue. Claims are counted and made in one exclusive transaction, so all
dispatchers together have no more in hand than engines are to be given.

Turns are fair shares (self-clocked fair queueing, Golestani 1994). A tenant's jobs of one weight are a flow, and a job of
weight w takes 1/w of virtual time: it ends that much after the one before it in its flow, and what ends first is claimed
first. So thousands of jobs of one tenant do not hold up the others, and where both wait, eight jobs of weight 8 are
claimed for one of weight 1. The present virtual time is the end of what was claimed last. A flow that comes, or comes
again, begins there: it has gained nothing by having been away. Its end then stays where it is while time goes on with
every claim, so every job comes up. As time stands still between claims, it is enough to write down with each who is there.

A job belongs to the foundation it was accepted for. Dispatchers of several foundations may share a database: each claims
its own foundation's jobs, and says that this foundation is served. Jobs of one that nobody has served for a while are
`forsaken`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Select, Subquery, and_, func, or_, select, update
from sqlalchemy.orm import Session

from infra.storage.leases import farthest
from serving.jobs.database import Database, Flow, Job, Server
from serving.jobs.jobs import QUEUED, UNBEGUN, UNFINISHED

LEASE = 10.0  # seconds after its last sign that a dispatcher is held dead
SUSPECT_ATTEMPTS = 2  # from here on a job runs alone, so that it takes no neighbour with it
QUIET = {"synchronize_session": False}
WAITING = (Job.state == QUEUED, Job.owner.is_(None))
WAITING_FLOWS = select(Job.tenant, Job.weight).where(*WAITING).distinct()


def of_foundation(foundation: str | None) -> tuple[ColumnElement[bool], ...]:
    """Conditions for the jobs that an engine of this foundation may run (None: every job's)."""
    return () if foundation is None else (or_(Job.foundation == foundation, Job.foundation.is_(None)),)


def turns(foundation: str | None = None) -> tuple[Subquery, ColumnElement[float]]:
    """(number, turn) of every job of the foundation that nobody has claimed, and the turn to order by."""
    place = func.row_number().over(partition_by=(Job.tenant, Job.weight), order_by=Job.number)
    turn = func.coalesce(Flow.served, now().scalar_subquery()) + place / Job.weight
    ranked = (
        select(Job.number, Job.id, turn.label("turn"))
        .outerjoin(Flow, and_(Flow.tenant == Job.tenant, Flow.weight == Job.weight))
        .where(*WAITING, *of_foundation(foundation))
        .subquery()
    )
    return ranked, ranked.c.turn


def now() -> Select[float]:
    """The present virtual time: the end of the job that was claimed last."""
    return select(func.coalesce(func.max(Flow.served), 0.0))


class Claims:
    """The queue of one database, for many dispatchers."""

    def __init__(self, database: Database, lease: float = LEASE) -> None:
        self._database, self._session, self.lease = database, database.sessions, lease

    def claim(
        self, owner: str, limit: int, together: int | None = None, foundation: str | None = None
    ) -> list[Job]:
        """Take up to `limit` jobs whose turn it is; they are this owner's until its lease runs out.

        Args:
            together: most jobs that all owners may have in hand, those that must run alone aside: these wait at
                their owner, one after another, and must not hold up everybody's; None: any number.
            foundation: fingerprint of the model that the owner's engines hold; no other's jobs are taken or counted.
        """
        ranked, turn = turns(foundation)
        picked = (
            select(Job.number)
            .join(ranked, ranked.c.number == Job.number)
            .where(*WAITING)  # again on the locked row, as it is by then
            .order_by(turn, Job.number)
        )
        held = (
            Job.state.in_(UNFINISHED),
            Job.owner.is_not(None),
            Job.attempts < SUSPECT_ATTEMPTS,
            *of_foundation(foundation),
        )
        with self._database.exclusive() as session:
            if together is not None:
                limit = min(limit, together - (session.scalar(select(func.count()).where(*held)) or 0))
            taken = self._take(session, owner, picked, limit) if limit > 0 else []
            if taken:
                self._count(session, taken)
        return taken

    def _count(self, session: Session, taken: Sequence[Job]) -> None:
        """Write down who was served and who else waits, each since when, and forget who does no more."""
        known = {(flow.tenant, flow.weight): flow for flow in session.scalars(select(Flow))}
        waiting = {(tenant, weight) for tenant, weight in session.execute(WAITING_FLOWS).tuples()}
        claimed = Counter((job.tenant, job.weight) for job in taken)
        served = {key: flow.served for key, flow in known.items()}
        began = max(served.values(), default=0.0)
        served = dict.fromkeys(waiting | claimed.keys(), began) | served
        for (tenant, weight), jobs in claimed.items():
            served[tenant, weight] += jobs / weight
        present = max(served.values())
        for (tenant, weight), end in served.items():
            flow = known.get((tenant, weight))
            if (tenant, weight) not in waiting and end < present:
                if flow is not None:
                    session.delete(flow)
            elif flow is None:
                session.add(Flow(tenant=tenant, weight=weight, served=end))
            else:
                flow.served = end

    def claim_late(self, owner: str, limit: int) -> list[Job]:
        """Take up to `limit` jobs whose deadline has passed in the queue, whoever's turn it is."""
        late = Job.request["deadline"].as_float() <= time.time()
        waiting = select(Job.number).where(*WAITING, late)
        with self._session.begin() as session:
            return self._take(session, owner, waiting, limit)

    def _take(self, session: Session, owner: str, jobs: Select[int], limit: int) -> list[Job]:
        picked = jobs.limit(limit).with_for_update(skip_locked=True, of=Job).cte("picked")
        statement = (
            update(Job)
            .where(Job.number.in_(select(picked.c.number)))
            .values(owner=owner, lease_until=self._until())
            .returning(Job)
        )
        taken = session.scalars(statement, execution_options=QUIET)
        return sorted(taken, key=lambda job: job.number)

    def renew(self, owner: str, ids: Collection[str]) -> None:
        """The owner lives and has these in hand; what it forgot comes free when its lease runs out."""
        mine = update(Job).where(Job.owner == owner, Job.id.in_(ids))
        with self._session.begin() as session:
            session.execute(mine.values(lease_until=self._until()), execution_options=QUIET)

    def held(self, owner: str) -> set[str]:
        """Ids of the unfinished jobs that are this owner's: neither ended by others nor taken over."""
        with self._session() as session:
            query = select(Job.id).where(Job.owner == owner, Job.state.in_(UNFINISHED))
            return set(session.scalars(query))

    def reclaim(self) -> int:
        """Back to the queue with the jobs of dead dispatchers. Returns how many.

        It is not held against the jobs: they run in engines, and an ingress may be killed any number of times.

        A lease of a clock that was ahead is shortened to a whole one (infra/storage/leases.py).
        """
        now = self._database.now()
        ahead = update(Job).where(Job.owner.is_not(None), Job.lease_until > farthest(now, self.lease))
        with self._session.begin() as session:
            session.execute(ahead.values(lease_until=self._until()), execution_options=QUIET)
            return self._requeue(session, Job.owner.is_not(None), Job.lease_until < now)

    def release(self, owner: str) -> int:
        """The owner stops: its unfinished jobs are free at once. Returns how many."""
        with self._session.begin() as session:
            return self._requeue(session, Job.owner == owner)

    def _until(self) -> ColumnElement[float]:
        """When a lease that is given now runs out."""
        return self._database.now() + self.lease

    def _requeue(self, session: Session, *which: ColumnElement[bool]) -> int:
        statement = update(Job).where(Job.state.in_(UNFINISHED), *which).values({**UNBEGUN, "state": QUEUED})
        return session.execute(statement, execution_options=QUIET).rowcount  # type: ignore[attr-defined]

    def order(self, foundation: str | None = None) -> list[str]:
        """Ids of all jobs of the foundation that nobody has claimed, in the order in which they would be."""
        ranked, turn = turns(foundation)
        with self._session() as session:
            return list(session.scalars(select(ranked.c.id).order_by(turn, ranked.c.number)))

    def serve(self, foundation: str) -> None:
        """Say that the foundation is served now."""
        with self._database.exclusive() as session:
            seen = float(session.scalar(select(self._database.now())) or 0.0)
            session.merge(Server(foundation=foundation, seen=seen))

    def claim_forsaken(self, owner: str, limit: int, grace: float) -> list[Job]:
        """Take up to `limit` queued jobs whose foundation nobody has served for `grace` seconds, nor them for as long."""
        now = self._database.now()
        served = select(Server.foundation).where(Server.seen >= now - grace)
        forsaken = (
            Job.foundation.is_not(None),
            Job.foundation.not_in(served),
            Job.created_at < now - grace,
        )
        with self._session.begin() as session:
            return self._take(session, owner, select(Job.number).where(*WAITING, *forsaken), limit)
