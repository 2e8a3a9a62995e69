"""A concept's record in a batch: what it is, where it stands, and who has it. `state.py` keeps and changes them."""

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
WITHDRAWN = "what is asked for now is done already"  # the reason of what was cancelled by that
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Record:
    """Where one concept stands."""

    # What a later release wrote would be lost with the next change.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: ConceptName
    work: dict[str, Any] = field(repr=False)  # Work.asdict()
    sha256: Sha256  # Work.sha256
    priority: int
    order: int  # among those of one priority
    status: Status = "queued"
    attempt: int = 1  # counts retries; a publication belongs to one attempt
    lost: Count = 0  # lanes that died with it, in this attempt
    step: Count = 0  # steps done, as last told
    steps: Count = 0
    loss: float | None = None
    step_seconds: float | None = None
    checkpoint: Key | None = None  # key of the state to go on from
    checkpoint_step: Count = 0
    version: VersionRef | None = None  # what was published: orbit@1
    reason: str | None = None  # why it failed, or was cancelled without being asked
    cancelling: bool = False  # asked for; its lane has not yet let go
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
        """The record of this concept. Raises Damaged: also for another's, and for what `runs` or a lane could not use."""
        record = parse(cls, data)
        if record.name != name:
            raise Damaged(f"it says that it is {record.name}")
        if record.checkpoint is not None and not record.checkpoint.startswith(f"checkpoints/{name}/"):
            raise Damaged(
                "checkpoint: expected a key below checkpoints/ and its name"
            )  # lanes delete what it names
        convert(Work, record.work)
        return record


@dataclass(frozen=True)
class Claim:
    """A concept that a lane has, as long as it renews it. `record` is as it was when claimed."""

    name: str
    token: str
    record: Record


def token(record: Record) -> str | None:
    """Of the claim on it."""
    return None if record.lease is None else record.lease.token


def queued(record: Record, attempt: int) -> Record:
    """A record as it was at first, but for what tells it from other attempts."""
    fresh = Record(record.name, record.work, record.sha256, record.priority, record.order, steps=record.steps)
    return replace(fresh, attempt=attempt, history=record.history)


def stays_ended(record: Record, work: Work) -> bool:
    """Whether a concept that failed or was cancelled stays so when this work is entered again; `runs retry` lets it train.

    One that failed waits again with anything changed: other data, settings, or where and how it is to run. One that
    somebody cancelled, only with what makes it another adapter.
    """
    if record.sha256 != work.sha256:
        return False
    if record.status == "cancelled":
        return record.reason != WITHDRAWN
    return record.status == "failed" and record.work == json.loads(json.dumps(work.asdict()))


def check_idle(record: Record, sha256: str) -> None:
    """Raises Conflict where a lane has the concept as another work than this: it would go on with other data or settings
    than are asked for."""
    if record.status in RUNNING and record.sha256 != sha256:
        raise Conflict(
            f"concept {record.name} is {record.status} with other data or settings; cancel it first "
            f"(motiondirector runs cancel), or publish this one under another name.",
            code="concept_busy",
        )


def rank(record: Record) -> tuple[int, int, str]:
    return -record.priority, record.order, record.name


def workers_of(record: Record) -> int:
    """Number of workers of the lanes that may train a concept: what it asks for; of a range the minimum."""
    told = record.work["config"]["workers"]
    return told if isinstance(told, int) else int(str(told).split(":")[0])


def is_free(record: Record, now: float) -> bool:
    """Whether a lane may take it: it waits, or its claim has expired or comes from a clock ahead."""
    if record.status in RUNNING:
        return record.lease is None or record.lease.is_over(now) or record.lease.is_ahead(now)
    return not record.ended
