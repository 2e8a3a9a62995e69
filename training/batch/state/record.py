"""A concept's record in a batch: its work, its progress and the lane that holds it. `state.py` stores and changes records."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from infra.errors import Conflict
from infra.storage.leases import Lease
from infra.storage.stored import ConceptName, Damaged, Key, Sha256, VersionRef, convert, parse
from training.batch.state.work import Work

Status = Literal["queued", "preparing", "training", "published", "failed", "cancelled"]
RUNNING: tuple[Status, ...] = ("preparing", "training")
ENDED: tuple[Status, ...] = ("published", "failed", "cancelled")
# The reason of concepts that were cancelled by `withdraw`. Stored records contain it: do not change it.
WITHDRAWN = "what is asked for now is done already"
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Record:
    """The stored state of one concept."""

    # Ignored fields, written by a later release, would be lost with the next change.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: ConceptName
    work: dict[str, Any] = field(repr=False)  # Work.asdict()
    sha256: Sha256  # Work.sha256
    priority: int
    order: int  # among records of equal priority
    status: Status = "queued"
    attempt: int = 1  # counts retries; a publication belongs to one attempt
    lost: Count = 0  # lanes that died with it, in this attempt
    step: Count = 0  # steps done, at the last report
    steps: Count = 0
    loss: float | None = None
    step_seconds: float | None = None
    checkpoint: Key | None = None  # key of the state to continue from
    checkpoint_step: Count = 0
    version: VersionRef | None = None  # the published version: orbit@1
    reason: str | None = None  # why it failed, or was cancelled without a request
    cancelling: bool = False  # requested; its lane has not stopped yet
    paused: bool = False  # no lane takes it; one that has it checkpoints and gives it back
    lease: Lease | None = None
    updated: float = 0.0  # UTC seconds
    revision: int = 0  # writes of this record
    history: tuple[tuple[float, str, str], ...] = field(default=(), repr=False)  # (time, status, note)

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def parsed_work(self) -> Work:
        return Work.from_dict(self.work)

    @classmethod
    def decode(cls, data: bytes, name: str) -> Record:
        """Parse the record of this concept. Raises Damaged if it cannot be used or belongs to another concept."""
        record = parse(cls, data)
        if record.name != name:
            raise Damaged(f"it is the record of {record.name}")
        # Lanes delete the object that `checkpoint` names.
        if record.checkpoint is not None and not record.checkpoint.startswith(f"checkpoints/{name}/"):
            raise Damaged(f"checkpoint: expected a key below checkpoints/{name}/")
        convert(Work, record.work)
        return record


@dataclass(frozen=True)
class Claim:
    """A lane's hold on a concept, valid while the lane renews it. `record` is the record at the time of the claim."""

    name: str
    token: str
    record: Record


def token(record: Record) -> str | None:
    """The token of a record's claim."""
    return None if record.lease is None else record.lease.token


def queued(record: Record, attempt: int) -> Record:
    """The record of a new attempt: as it was at first, with the attempt's number and the history."""
    fresh = Record(record.name, record.work, record.sha256, record.priority, record.order, steps=record.steps)
    return replace(fresh, attempt=attempt, history=record.history)


def stays_ended(record: Record, work: Work) -> bool:
    """Whether a failed or cancelled concept stays so when this work is added again, until `runs retry`.

    A failed concept is queued again if anything about it changed: data, settings, or where and how it
    runs. A concept that a user cancelled is queued again only if the change gives another adapter.
    """
    if record.sha256 != work.sha256:
        return False
    if record.status == "cancelled":
        return record.reason != WITHDRAWN
    return record.status == "failed" and record.work == json.loads(json.dumps(work.asdict()))


def check_idle(record: Record, sha256: str) -> None:
    """Raises Conflict if a lane trains the concept with other data or settings than those of this hash."""
    if record.status in RUNNING and record.sha256 != sha256:
        raise Conflict(
            f"concept {record.name} is {record.status} with other data or settings; cancel it first "
            f"(motiondirector runs cancel), or publish the new one under another name.",
            code="concept_busy",
        )


def rank(record: Record) -> tuple[int, int, str]:
    return -record.priority, record.order, record.name


def workers_of(record: Record) -> int:
    """Number of workers of the lanes that may train a concept: its setting `workers`, or the minimum of a range."""
    workers = record.work["config"]["workers"]
    return workers if isinstance(workers, int) else int(str(workers).split(":")[0])


def is_free(record: Record, now: float) -> bool:
    """Whether a lane may take the concept: it waits, or its claim has expired or comes from a clock that is ahead."""
    if record.paused:
        return False
    if record.status in RUNNING:
        return record.lease is None or record.lease.is_over(now) or record.lease.is_ahead(now)
    return not record.ended
