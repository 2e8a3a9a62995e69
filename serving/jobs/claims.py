"""Which dispatcher runs which job: claims with a lease, in fair order.

Exactly one dispatcher claims a job: by SELECT ... FOR UPDATE SKIP LOCKED on PostgreSQL, and by a single UPDATE
on SQLite, which has one writer at a time. The owner renews its lease. If it stops, it counts as dead, and its
jobs (no others) return to the queue. Claims are counted and made in one exclusive transaction, so all
dispatchers together never hold more jobs than the engines should get.

The order gives fair shares (self-clocked fair queueing, Golestani 1994). A tenant's jobs of one weight are a
flow. A job of weight w takes 1/w of virtual time, so its finish tag (`turn`) is that much after the previous one
in its flow. The job with the smallest finish tag is claimed first. So thousands of jobs of one tenant do not
delay other tenants, and eight jobs of weight 8 are claimed for each job of weight 1 while both wait. The current
virtual time is the finish tag of the last claimed job. A new or returning flow starts there, so it gains nothing
from its absence. Its tags then stay fixed while time advances with every claim, so every job gets its turn.
Time stands still between claims, so it is enough to record at each claim which flows are waiting.

A job belongs to the foundation it was accepted for. Dispatchers of several foundations may share a database: each
claims its own foundation's jobs, and records that this foundation is served. Jobs whose foundation nobody has
served for a while are orphaned.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Select, Subquery, and_, func, or_, select, update
from sqlalchemy.orm import Session

from infra.storage.leases import latest_expiry
from serving.jobs.database import Database, Flow, Job, Server
from serving.jobs.jobs import QUEUED, STARTABLE, UNBEGUN

LEASE = 10.0  # seconds without a renewal after which a dispatcher counts as dead
SUSPECT_ATTEMPTS = 2  # from this number on, a job runs alone, so that it cannot take others down with it
QUIET = {"synchronize_session": False}
WAITING = (Job.state == QUEUED, Job.owner.is_(None))
WAITING_FLOWS = select(Job.tenant, Job.weight).where(*WAITING).distinct()


def of_foundation(foundation: str | None) -> tuple[ColumnElement[bool], ...]:
    """Conditions for the jobs that an engine of this foundation may run; None: no conditions."""
    return () if foundation is None else (or_(Job.foundation == foundation, Job.foundation.is_(None)),)


def turns(foundation: str | None = None) -> tuple[Subquery, ColumnElement[float]]:
    """(number, id, tenant, turn) of every unclaimed job of the foundation, and the turn column to order by."""
    place = func.row_number().over(partition_by=(Job.tenant, Job.weight), order_by=Job.number)
    turn = func.coalesce(Flow.served, now().scalar_subquery()) + place / Job.weight
    ranked = (
        select(Job.number, Job.id, Job.tenant, turn.label("turn"))
        .outerjoin(Flow, and_(Flow.tenant == Job.tenant, Flow.weight == Job.weight))
        .where(*WAITING, *of_foundation(foundation))
        .subquery()
    )
    return ranked, ranked.c.turn


def now() -> Select[float]:
    """The current virtual time: the finish tag of the job that was claimed last."""
    return select(func.coalesce(func.max(Flow.served), 0.0))


class Claims:
    """The queue of one database, shared by its dispatchers."""

    def __init__(self, database: Database, lease: float = LEASE) -> None:
        self._database, self._session, self.lease = database, database.sessions, lease

    def claim(
        self, owner: str, limit: int, together: int | None = None, foundation: str | None = None
    ) -> list[Job]:
        """Claim up to `limit` jobs whose turn it is. They belong to this owner until its lease expires.

        Args:
            together: maximum claimed jobs of all owners; None: no limit. Jobs that must run alone do not count,
                because they wait at their owner, one after another, and must not block other owners.
            foundation: fingerprint of the model in the owner's engines. Jobs of others are neither claimed nor
                counted.
        """
        ranked, turn = turns(foundation)
        picked = (
            select(Job.number)
            .join(ranked, ranked.c.number == Job.number)
            .where(*WAITING)  # checked again on the locked row, which may have changed
            .order_by(turn, Job.number)
        )
        held = (
            Job.state.in_(STARTABLE),
            Job.owner.is_not(None),
            Job.attempts < SUSPECT_ATTEMPTS,
            *of_foundation(foundation),
        )
        with self._database.exclusive() as session:
            if together is not None:
                limit = min(limit, together - (session.scalar(select(func.count()).where(*held)) or 0))
            taken = self._take(session, owner, picked, limit) if limit > 0 else []
            if taken:
                self._record_service(session, taken)
        return taken

    def _record_service(self, session: Session, taken: Sequence[Job]) -> None:
        """Record the flows' virtual times: advance claimed ones, start new ones now, drop those that ended."""
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
        """Claim up to `limit` queued jobs whose deadline has passed, whatever their turn."""
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
        """Renew the owner's lease on these jobs. Its other jobs become free when their lease expires."""
        mine = update(Job).where(Job.owner == owner, Job.id.in_(ids))
        with self._session.begin() as session:
            session.execute(mine.values(lease_until=self._until()), execution_options=QUIET)

    def held(self, owner: str) -> set[str]:
        """Ids of the owner's unfinished jobs, without those that others have ended or taken over."""
        with self._session() as session:
            query = select(Job.id).where(Job.owner == owner, Job.state.in_(STARTABLE))
            return set(session.scalars(query))

    def reclaim(self) -> int:
        """Return the jobs of dead dispatchers to the queue; returns their number.

        This does not count as an attempt: jobs run in engines, so they are not the cause of an ingress's death.
        A lease from a clock that was ahead is shortened to a full lease (infra/storage/leases.py).
        """
        now = self._database.now()
        ahead = update(Job).where(Job.owner.is_not(None), Job.lease_until > latest_expiry(now, self.lease))
        with self._session.begin() as session:
            session.execute(ahead.values(lease_until=self._until()), execution_options=QUIET)
            return self._requeue(session, Job.owner.is_not(None), Job.lease_until < now)

    def release(self, owner: str) -> int:
        """Free the unfinished jobs of an owner that stops; returns their number."""
        with self._session.begin() as session:
            return self._requeue(session, Job.owner == owner)

    def _until(self) -> ColumnElement[float]:
        """When a lease given now expires."""
        return self._database.now() + self.lease

    def _requeue(self, session: Session, *which: ColumnElement[bool]) -> int:
        statement = update(Job).where(Job.state.in_(STARTABLE), *which).values({**UNBEGUN, "state": QUEUED})
        return session.execute(statement, execution_options=QUIET).rowcount  # type: ignore[attr-defined]

    def order(self, foundation: str | None = None) -> list[str]:
        """Ids of all unclaimed jobs of the foundation, in the order in which they would be claimed."""
        return [id for id, _ in self.waiting(foundation)]

    def waiting(self, foundation: str | None = None) -> list[tuple[str, str]]:
        """(id, tenant) of all unclaimed jobs of the foundation, in the order in which they would be claimed."""
        ranked, turn = turns(foundation)
        with self._session() as session:
            query = select(ranked.c.id, ranked.c.tenant).order_by(turn, ranked.c.number)
            return [(id, tenant) for id, tenant in session.execute(query)]

    def mark_served(self, foundation: str) -> None:
        """Record that the foundation is being served now."""
        with self._database.exclusive() as session:
            seen = float(session.scalar(select(self._database.now())) or 0.0)
            session.merge(Server(foundation=foundation, seen=seen))

    def claim_orphaned(self, owner: str, limit: int, grace: float) -> list[Job]:
        """Claim up to `limit` jobs queued for over `grace` seconds whose foundation was not served in that time."""
        now = self._database.now()
        served = select(Server.foundation).where(Server.seen >= now - grace)
        orphaned = (
            Job.foundation.is_not(None),
            Job.foundation.not_in(served),
            Job.created_at < now - grace,
        )
        with self._session.begin() as session:
            return self._take(session, owner, select(Job.number).where(*WAITING, *orphaned), limit)
