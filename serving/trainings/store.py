"""Accepted trainings in SQL, from `validating_files` to exactly one final state, with their events.

    validating_files -> queued -> running -> succeeded | failed | cancelled
                           |-> paused <-/      (resume: back to queued)

Every change is one UPDATE that compares and swaps the row's `revision`, in one transaction with the events that
report it. So a change happens once, and so does each of its events, whichever of several ingresses makes it. An ingress
claims the validation of a training with a lease. When a training has ended it stays unsettled until what it left behind
is removed.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from infra.errors import Conflict, NotFound, Throttled
from serving.jobs.admission import IdempotencyKey, find_repeated
from serving.jobs.database import Database, Delivery
from serving.jobs.quotas import check_training
from serving.jobs.training_tables import SENTENCE, Training, TrainingEvent
from serving.jobs.usage import TRAINING, record
from serving.trainings.names import model_of
from serving.trainings.request import TrainingRequest

VALIDATING, QUEUED, RUNNING, PAUSED, SUCCEEDED, FAILED, CANCELLED = (
    "validating_files",
    "queued",
    "running",
    "paused",
    "succeeded",
    "failed",
    "cancelled",
)
STATES = (VALIDATING, QUEUED, RUNNING, PAUSED, SUCCEEDED, FAILED, CANCELLED)
FINAL = frozenset({SUCCEEDED, FAILED, CANCELLED})
ID = re.compile("ftjob-[0-9a-f]{32}")
LEASE = 60.0  # seconds without a renewal after which an ingress that validates counts as dead
PLACES = 1000  # most events of one change
QUIET = {"synchronize_session": False}


class Moved(Exception):
    """The training has changed since it was read."""


def event(message: str, *, level: str = "info", kind: str = "message", **data: Any) -> TrainingEvent:
    """An event that is not stored yet."""
    said = message.replace("\0", "")[:SENTENCE]  # PostgreSQL's text holds no NUL
    return TrainingEvent(created_at=time.time(), level=level, kind=kind, message=said, data=data)


class TrainingStore:
    """Trainings by id. Thread-safe; several processes may share one database.

    Args:
        most: unfinished trainings that a tenant may have.
    """

    def __init__(self, database: Database, most: int) -> None:
        self._database, self._session, self._most = database, database.sessions, most

    # ------------------------------------------------------------------ accepting
    def find(self, tenant: str, idempotency: IdempotencyKey | None) -> Training | None:
        """The training of an earlier identical request. Raises Conflict if the key came with another body."""
        with self._session() as session:
            return find_repeated(session, Training, tenant, idempotency)

    def admit(
        self,
        request: TrainingRequest,
        *,
        tenant: str,
        concept: str,
        foundation: str,
        idempotency: IdempotencyKey | None,
        webhook_url: str | None = None,
    ) -> tuple[Training, bool]:
        """Accept a request. Returns the committed training and whether it is new.

        Raises:
            Throttled: the tenant has too many unfinished trainings.
            Conflict: another of them has the same suffix, or the idempotency key was used with another body.
        """
        with self._database.exclusive() as session:
            found = find_repeated(session, Training, tenant, idempotency)
            if found is not None:
                return found, False
            unfinished = select(Training).where(Training.tenant == tenant, Training.state.not_in(FINAL))
            others = list(session.scalars(unfinished))
            check_training(session, tenant, len(others))
            stopping = and_(Training.state == CANCELLED, Training.settled.is_(False))
            busy = or_(Training.state.not_in(FINAL), stopping)
            if len(others) >= self._most:
                raise Throttled(
                    f"you have {len(others)} unfinished trainings, the most that are allowed; wait for one, or cancel it.",
                    code="too_many_trainings",
                    retry_after=60.0,
                )
            mine = (Training.tenant == tenant, Training.concept == concept)
            same = session.scalars(select(Training).where(*mine, busy)).first()
            if same is not None:
                state = "still being stopped" if same.state == CANCELLED else same.state
                raise Conflict(
                    f"training {same.id} learns {request.suffix!r} and is {state}; wait for its end, or give another suffix.",
                    code="suffix_in_use",
                )
            training = Training(
                id=f"ftjob-{secrets.token_hex(16)}",
                tenant=tenant,
                state=VALIDATING,
                concept=concept,
                foundation=foundation,
                request=request.model_dump(mode="json"),
                created_at=time.time(),
                idempotency_key=None if idempotency is None else idempotency.key,
                body_sha256=None if idempotency is None else idempotency.body_sha256,
                webhook_url=webhook_url,
            )
            session.add(training)
            created = event(f"Created training {training.id}; its files are being validated.")
            session.add_all(_placed([created], training.id, 0))
        return training, True

    # -------------------------------------------------------------------- reading
    def unfinished(self, tenant: str, concept: str) -> Training | None:
        """The tenant's unfinished training of a concept, of which there is at most one."""
        mine = (Training.tenant == tenant, Training.concept == concept, Training.state.not_in(FINAL))
        with self._session() as session:
            return session.scalars(select(Training).where(*mine)).first()

    def get(self, id: str, *, tenant: str | None = None) -> Training:
        """The training, if it exists and (with `tenant`) belongs to that tenant. Raises NotFound."""
        training = None
        if ID.fullmatch(id):
            with self._session() as session:
                training = session.scalar(select(Training).where(Training.id == id))
        if training is None or (tenant is not None and training.tenant != tenant):
            raise NotFound(
                f"there is no training {id[:80]!r}; GET /v1/fine_tuning/jobs lists yours.",
                code="training_not_found",
            )
        return training

    def page(self, tenant: str, *, after: str | None, limit: int) -> tuple[list[Training], bool]:
        """A page of the tenant's trainings, newest first, and whether more follow."""
        query = select(Training).where(Training.tenant == tenant)
        if after is not None:
            query = query.where(Training.number < self.get(after, tenant=tenant).number)
        with self._session() as session:
            found = list(session.scalars(query.order_by(Training.number.desc()).limit(limit + 1)))
        return found[:limit], len(found) > limit

    def events(
        self, id: str, *, after: int | None = None, limit: int = 20, newest: bool = True
    ) -> tuple[list[TrainingEvent], bool]:
        """A page of a training's events, and whether more follow. `after`: place of the last event seen."""
        query, place = select(TrainingEvent).where(TrainingEvent.training == id), TrainingEvent.place
        if after is not None:
            query = query.where(place < after if newest else place > after)
        query = query.order_by(place.desc() if newest else place).limit(limit + 1)
        with self._session() as session:
            found = list(session.scalars(query))
        return found[:limit], len(found) > limit

    def unsettled(self, foundation: str | None = None) -> list[Training]:
        """Every training (of a foundation) that is not finished, or left something behind; oldest first."""
        query = select(Training).where(Training.settled.is_(False), *_of_foundation(foundation))
        with self._session() as session:
            return list(session.scalars(query.order_by(Training.number)))

    def count(self) -> dict[str, int]:
        """Number of trainings by state."""
        with self._session() as session:
            rows = session.execute(select(Training.state, func.count()).group_by(Training.state)).tuples()
            return dict.fromkeys(STATES, 0) | {state: number for state, number in rows}  # noqa: C416

    def waiting_before(self, training: Training) -> int:
        """How many older trainings of the same tenant are not finished, without paused ones."""
        older = (
            Training.tenant == training.tenant,
            Training.state.not_in((*FINAL, PAUSED)),
            Training.number < training.number,
        )
        with self._session() as session:
            return session.scalar(select(func.count()).select_from(Training).where(*older)) or 0

    # ------------------------------------------------------------------- changing
    def change(self, training: Training, *events: TrainingEvent, **values: Any) -> Training:
        """Write values and events, unless the row has changed since it was read. Returns the new row. Raises Moved.

        With a final state, also stores the webhook call that reports it.
        """
        statement = (
            update(Training)
            .where(Training.id == training.id, Training.revision == training.revision)
            .values(**values, revision=training.revision + 1)
            .returning(Training)
        )
        with self._session.begin() as session:
            changed = session.scalar(statement, execution_options=QUIET)
            if changed is None:
                raise Moved(training.id)
            session.add_all(_placed(events, training.id, changed.revision))
            if values.get("state") in FINAL and changed.webhook_url is not None:
                state, url = changed.state, changed.webhook_url
                session.add(Delivery.of(training.id, state, training.tenant, url, "fine_tuning.job"))
            if values.get("state") == SUCCEEDED:
                record_usage(session, changed)
        return changed

    def claim(self, owner: str, foundation: str | None = None) -> Training | None:
        """Claim the oldest training (of a foundation) whose files nobody validates; None if there is none."""
        now = self._database.now()
        lease = Training.lease_until
        free = or_(
            lease.is_(None), lease <= now, lease > now + 2 * LEASE
        )  # the last from a clock that was ahead
        waiting = (Training.state == VALIDATING, free, *_of_foundation(foundation))
        picked = select(Training.id).where(*waiting).order_by(Training.number).limit(1)
        with self._session() as session:
            if session.scalar(picked) is None:  # as nearly always: no need to exclude other writers
                return None
        with self._database.exclusive() as session:
            id = session.scalar(picked)
            if id is None:
                return None
            values = {"owner": owner, "lease_until": now + LEASE, "revision": Training.revision + 1}
            statement = update(Training).where(Training.id == id).values(**values).returning(Training)
            return session.scalar(statement, execution_options=QUIET)

    def renew(self, training: Training) -> None:
        """Renew the lease of a claimed training. Raises Moved if it is no longer the owner's, or was cancelled."""
        mine = (
            Training.id == training.id,
            Training.state == VALIDATING,
            Training.revision == training.revision,
        )
        statement = update(Training).where(*mine).values(lease_until=self._database.now() + LEASE)
        with self._session.begin() as session:
            renewed = session.execute(statement.returning(Training.id), execution_options=QUIET).one_or_none()
        if renewed is None:
            raise Moved(training.id)

    def release(self, training: Training) -> None:
        """Give up the lease of a claimed training, if it is still the owner's."""
        mine = (Training.id == training.id, Training.owner == training.owner)
        with self._session.begin() as session:
            session.execute(
                update(Training).where(*mine).values(owner=None, lease_until=None), execution_options=QUIET
            )

    def is_being_validated(self, id: str) -> bool:
        """Whether a training waits for its validation, or an ingress still validates it although it was cancelled."""
        leased = and_(Training.owner.is_not(None), Training.lease_until > self._database.now())
        busy = or_(Training.state == VALIDATING, leased)
        with self._session() as session:
            return session.scalar(select(Training.id).where(Training.id == id, busy)) is not None

    def cancel(self, id: str, tenant: str) -> Training:
        """-> cancelled. Raises NotFound, and Conflict if it has ended otherwise."""
        while True:
            training = self.get(id, tenant=tenant)
            if training.state == CANCELLED:
                return training
            if training.state in FINAL:
                raise Conflict(
                    f"training {id} has ended ({training.state}) and cannot be cancelled.",
                    code="training_ended",
                )
            try:
                held = {"owner": training.owner, "lease_until": training.lease_until}
                return self.end(training, CANCELLED, event("The training was cancelled."), **held)
            except Moved:
                continue

    def pause(self, id: str, tenant: str) -> Training:
        """queued, running -> paused. Raises NotFound, and Conflict in another state (pausing twice is no error)."""
        while True:
            training = self.get(id, tenant=tenant)
            if training.state == PAUSED:
                return training
            if training.state not in (QUEUED, RUNNING):
                raise Conflict(
                    f"training {id} is {training.state}; only queued and running ones can be paused.",
                    code="training_ended" if training.state in FINAL else "training_validating",
                )
            with contextlib.suppress(Moved):
                return self.change(training, event("The training was paused."), state=PAUSED)

    def resume(self, id: str, tenant: str) -> Training:
        """paused -> queued. Raises NotFound, and Conflict if it has ended (one that is not paused goes on)."""
        while True:
            training = self.get(id, tenant=tenant)
            if training.state in FINAL:
                raise Conflict(
                    f"training {id} has ended ({training.state}) and cannot be resumed.",
                    code="training_ended",
                )
            if training.state != PAUSED:
                return training
            said = event("The training was resumed; it goes on when it is its turn.")
            with contextlib.suppress(Moved):
                return self.change(training, said, state=QUEUED)

    def fail(self, training: Training, code: str, message: str, param: str | None = None) -> Training:
        """-> failed. Raises Moved."""
        said = message.replace("\0", "")[:SENTENCE]
        error = {"error_code": code, "error_message": said, "error_param": param}
        return self.end(training, FAILED, event(said, level="error", code=code), **error)

    def end(self, training: Training, state: str, *events: TrainingEvent, **values: Any) -> Training:
        """Move a training to a final state. Raises Moved."""
        done = {"state": state, "finished_at": time.time(), "owner": None, "lease_until": None}
        return self.change(training, *events, **{**done, **values})

    def erase(self, tenant: str) -> bool:
        """Cancel all trainings of a tenant, and remove those that left nothing behind. Returns whether none is left."""
        with self._session() as session:
            mine = list(session.scalars(select(Training).where(Training.tenant == tenant)))
        for training in mine:
            if training.state not in FINAL:
                with contextlib.suppress(Conflict):  # it ended meanwhile
                    self.cancel(training.id, tenant)
        ended = select(Training.id).where(Training.tenant == tenant, Training.settled.is_(True))
        with self._session.begin() as session:
            ids = list(session.scalars(ended))
            session.execute(delete(TrainingEvent).where(TrainingEvent.training.in_(ids)))
            session.execute(delete(Training).where(Training.id.in_(ids)))
        return len(ids) == len(mine)

    def purge(self, before: float, most: int = 100) -> int:
        """Remove settled trainings that ended before a time, with their events. Returns their number."""
        old = select(Training.id).where(Training.settled.is_(True), Training.finished_at < before).limit(most)
        with self._session.begin() as session:
            ids = list(session.scalars(old))
            session.execute(delete(TrainingEvent).where(TrainingEvent.training.in_(ids)))
            session.execute(delete(Training).where(Training.id.in_(ids)))
        return len(ids)


def record_usage(session: Session, training: Training) -> None:
    """Count the steps of a training in the transaction of its end."""
    seconds = training.step_seconds
    record(
        session,
        job_id=training.id,
        tenant=training.tenant,
        kind=TRAINING,
        model="" if training.version is None else model_of(training.version),
        steps=training.step,
        device_seconds=None if seconds is None else seconds * training.step,
    )


def _of_foundation(foundation: str | None) -> tuple[ColumnElement[bool], ...]:
    """Conditions for the trainings of a foundation; None: no conditions."""
    return () if foundation is None else (Training.foundation == foundation,)


def _placed(events: Sequence[TrainingEvent], id: str, revision: int) -> Sequence[TrainingEvent]:
    """The events of a training's change, in order, after those of earlier changes."""
    for index, one in enumerate(events[:PLACES], 1):
        one.training, one.place = id, revision * PLACES + index
    return events[:PLACES]
