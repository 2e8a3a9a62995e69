"""Where every concept of a batch stands: one small object each, in the storage, changed by compare-and-swap.

    <registry>/batches/<batch>/batch.json                what it is; written once
    <registry>/batches/<batch>/concepts/<name>.json      a `Record`
    <registry>/batches/<batch>/checkpoints/<name>/...    states of members (training/batch/lane/lane.py)
    <registry>/batches/<batch>/logs/...                  lines of lanes and concepts (training/batch/watch/logs.py)

    queued -> preparing -> training -> published | failed | cancelled         (retry: back to queued)

No process is in charge. A lane *claims* a concept by a lease (infra/storage/leases.py), and renews it as it goes on. A claim that
ran out may be taken by any other, which goes on from the last checkpoint that the record names. So a concept ends once,
whoever dies.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from infra.errors import Conflict, NotFound
from infra.registry import check_concept_name
from infra.storage import ObjectNotFound, Storage
from infra.storage.leases import LEASE_S, Lease, LeaseLost, Objects
from infra.storage.stored import HexId, is_concept_name, parse_object
from training.batch.state.record import RUNNING, WITHDRAWN, Claim, Record, check_idle, queued, rank, token
from training.batch.state.work import Work

HISTORY = 40  # changes of a record that it remembers

Change = Callable[[Record], Record | None]


@dataclass(frozen=True)
class Begun:
    """What batch.json has at least."""

    id: HexId
    created: float  # UTC seconds


class BatchState:
    """A batch's records. Holds nothing but what it read last: any number of processes may use one storage.

    Args:
        storage: of this batch.
        clock: UTC seconds.
        lease_s: how long a claim holds unless renewed; renew it at least three times as often.
    """

    def __init__(
        self, storage: Storage, *, clock: Callable[[], float] = time.time, lease_s: float = LEASE_S
    ) -> None:
        self.storage, self.clock, self.lease_s = storage, clock, lease_s
        remedy = "restore it from a copy, or delete it and enter the concept again"
        self._objects = Objects(storage, "concepts/", Record.decode, remedy)
        self._seen: dict[str, tuple[str, Record]] = {}  # name -> (etag, record)

    # ------------------------------------------------------------------ the batch
    def create(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """Begin the batch, or find it begun. Returns batch.json, which has its `id`."""
        told = {**about, "id": uuid.uuid4().hex, "created": self.clock()}
        self.storage.put_if_absent("batch.json", json.dumps(told, sort_keys=True).encode())
        return self.about()

    def about(self) -> dict[str, Any]:
        """batch.json. Raises NotFound when there is no such batch."""
        try:
            body = self.storage.get("batch.json")
        except ObjectNotFound:
            raise NotFound(
                f"no batch at {self.storage.uri}; `motiondirector runs list` shows what there is.",
                code="batch_not_found",
            ) from None
        where = f"batch.json of {self.storage.uri}"
        parse_object(Begun, body, where, "restore it from a copy, or begin a batch of another name")
        return json.loads(body)

    # ----------------------------------------------------------------- reading
    def records(self) -> list[Record]:
        """Every concept, in the order they are begun. One listing; only what changed since the last is read."""
        listed = {}
        for info in self.storage.list("concepts/"):
            found = re.fullmatch(r"concepts/(.+)\.json", info.key)
            if found and is_concept_name(found[1]):
                listed[found[1]] = info.etag
        for name in self._seen.keys() - listed.keys():
            del self._seen[name]
        for name, etag in listed.items():
            if name not in self._seen or self._seen[name][0] != etag:
                self._seen[name] = etag, self.record(name)
        return sorted((record for _, record in self._seen.values()), key=rank)

    def record(self, name: str) -> Record:
        """One concept. Raises NotFound."""
        record = self._objects.get(check_concept_name(name))
        if record is None:
            raise NotFound(
                f"concept {name} is not in the batch {self.storage.uri}; `motiondirector runs show` lists it.",
                code="concept_not_found",
            )
        return record

    # ------------------------------------------------------- what people do
    def add(
        self, works: Iterable[Work], *, is_gone: Callable[[str], bool] = lambda version: False
    ) -> list[Record]:
        """Put concepts into the batch, or back into it with other data or settings. Returns those now waiting.

        One that is there with the same hash (what is computed) stays where it stands, and takes over where and how: priority,
        checkpoints, memory. It waits again if it had failed with others of those, if what it was published as is gone, or if it
        was withdrawn.

        Args:
            is_gone: whether a published version ("orbit@1") was removed.

        Raises:
            Conflict: one with another hash is being trained: nothing of `works` that comes after it is added.
        """
        waiting = []
        order = max((record.order for record in self.records()), default=0)
        for work in works:
            order += 1
            fresh = Record(
                name=check_concept_name(work.name),
                work=work.asdict(),
                sha256=work.sha256,
                priority=work.priority,
                order=order,
                steps=work.config.steps,
            )

            def renew(record: Record, fresh: Record = fresh) -> Record | None:
                if record.sha256 == fresh.sha256:
                    return self._same(record, fresh, is_gone)
                check_idle(record, fresh.sha256)
                return replace(fresh, attempt=record.attempt + 1, history=record.history)

            record = self._change(work.name, renew, "added with other settings", fresh)
            if record is not None and record.status == "queued":
                waiting.append(record)
        return waiting

    def withdraw(self, works: Iterable[Work]) -> None:
        """These are done: none of them is to be trained with other data or settings, as added before. What waits so is cancelled.

        Raises:
            Conflict: one is being trained so: nothing of `works` that comes after it is withdrawn.
        """
        there = {record.name for record in self.records()}
        for work in works:
            if work.name not in there:
                continue

            def cancel(record: Record, sha256: str = work.sha256) -> Record | None:
                if record.ended or record.sha256 == sha256:
                    return None
                check_idle(record, sha256)
                return replace(record, status="cancelled", cancelling=False, reason=WITHDRAWN)

            if self._change(work.name, cancel, WITHDRAWN) is not None:
                self.forget(work.name)

    def _same(self, record: Record, fresh: Record, is_gone: Callable[[str], bool]) -> Record | None:
        """What adding a concept again makes of its record; None: nothing."""
        # The plan says beforehand which of these stay as they ended (`record.stays_ended`).
        again = replace(fresh, attempt=record.attempt + 1, history=record.history)
        if record.status == "published":
            return again if record.version is not None and is_gone(record.version) else None
        if record.status == "cancelled" and record.reason == WITHDRAWN:
            return again
        told = json.loads(json.dumps([fresh.work, fresh.priority]))
        if [record.work, record.priority] == told:
            return None
        if record.status in RUNNING and not self._expired(record):
            return None  # its lane has what it began with
        return (
            again if record.status == "failed" else replace(record, work=fresh.work, priority=fresh.priority)
        )

    def cancel(self, name: str) -> Record:
        """Have a concept not trained. One that a lane has ends when the lane sees it. Raises Conflict."""

        def change(record: Record) -> Record | None:
            if record.status == "cancelled":
                return None
            if record.ended:
                raise Conflict(
                    f"concept {name} is {record.status} already; only what waits or trains can be cancelled.",
                    code="concept_ended",
                )
            if record.status in RUNNING and not self._expired(record):
                return None if record.cancelling else replace(record, cancelling=True)
            return replace(record, status="cancelled", cancelling=False, lease=None)

        record = self._change(name, change, "asked for") or self.record(name)
        if record.ended:
            self.forget(name)
        return record

    def forget(self, name: str) -> None:
        """Delete the states of a concept that has ended: nobody goes on from them."""
        for info in list(self.storage.list(f"checkpoints/{check_concept_name(name)}/")):
            self.storage.delete(info.key)

    def retry(self, name: str) -> Record:
        """Let a failed or cancelled concept train again, from its beginning. Raises Conflict."""

        def change(record: Record) -> Record | None:
            if record.status not in ("failed", "cancelled"):
                raise Conflict(
                    f"concept {name} is {record.status}; only what failed or was cancelled can be tried again.",
                    code="concept_not_ended",
                )
            return queued(record, attempt=record.attempt + 1)

        return self._change(name, change, "tried again") or self.record(name)

    # --------------------------------------------------------- what lanes do
    def claim(self, owner: str, *, suits: Callable[[Record], bool] = lambda record: True) -> Claim | None:
        """Take the next concept that waits, or whose lane is gone. None: there is none that suits.

        A concept that lost its lane more often than its `max_failures` is not given out again; it fails.

        Args:
            owner: the lane's name, for people.
            suits: which records this lane can take.
        """
        for seen in self.records():
            lease = Lease(owner, uuid.uuid4().hex, self.clock() + self.lease_s, self.lease_s)
            take = partial(self._take, lease=lease, suits=suits)
            taken = None if take(seen) is None else self._change(seen.name, take, owner)
            if taken is not None and taken.lease == lease:
                return Claim(taken.name, lease.token, taken)
            if taken is not None and taken.ended:
                self.forget(taken.name)
        return None

    def _take(self, record: Record, lease: Lease, suits: Callable[[Record], bool]) -> Record | None:
        """What a record becomes when a lane asks for it; None: nothing."""
        if record.ended or not suits(record):
            return None
        gone = record.status in RUNNING and self._expired(record)
        if record.status in RUNNING and record.lease is not None and not gone:
            now = self.clock()
            return replace(record, lease=record.lease.renewed(now)) if record.lease.is_ahead(now) else None
        if record.cancelling:
            return replace(record, status="cancelled", cancelling=False, lease=None)
        lost = record.lost + 1 if gone else record.lost
        if lost > (most := record.work["config"]["max_failures"]):
            return replace(
                record,
                status="failed",
                lease=None,
                lost=lost,
                reason=f"its lane was lost {lost} times (max_failures {most}), last at step {record.step}; look at the "
                "lanes' memory and logs, then try it again.",
            )
        return replace(record, status="preparing", lease=lease, lost=lost, step=record.checkpoint_step)

    def beat(
        self,
        claim: Claim,
        *,
        step: int | None = None,
        loss: float | None = None,
        step_seconds: float | None = None,
    ) -> Record:
        """Renew a claim and tell where it stands; with `step` it trains. The record's `cancelling` asks to let go.

        Raises:
            LeaseLost: another has it, or it ended.
        """

        def change(record: Record) -> Record:
            told: dict[str, Any] = {}
            if step is not None:
                told = {"status": "training", "step": step, "loss": loss, "step_seconds": step_seconds}
            return replace(record, **told)

        return self._owned(claim, change)

    def checkpointed(self, claim: Claim, step: int, key: str) -> Record:
        """From now on the concept continues from this state, which is in the storage. Raises LeaseLost."""
        return self._owned(claim, lambda record: replace(record, checkpoint=key, checkpoint_step=step))

    def publish(self, claim: Claim, version: str, *, step: int, loss: float | None = None) -> Record:
        """The concept ended well, as this version. Raises LeaseLost."""
        return self._owned(
            claim, lambda r: replace(r, status="published", version=version, step=step, loss=loss), version
        )

    def fail(self, claim: Claim, reason: str) -> Record:
        """The concept ended, and why. Raises LeaseLost."""
        return self._owned(claim, lambda r: replace(r, status="failed", reason=reason), reason)

    def cancelled(self, claim: Claim) -> Record:
        """The lane let go of a concept that was to be cancelled. Raises LeaseLost."""
        return self._owned(claim, lambda r: replace(r, status="cancelled"), "let go")

    def release(self, claim: Claim) -> Record:
        """Give a concept back, to be gone on with by another from its last checkpoint: a lane that must stop."""
        return self._owned(claim, lambda r: replace(r, status="queued", lease=None), "given back")

    def lapse(self, owner: str) -> list[Record]:
        """A lane is known to be dead: its claims run out now. Returns those that others can take.

        Were it alive after all, it would go on where nobody took a concept from it.
        """

        def change(record: Record) -> Record | None:
            if record.lease is None or record.lease.owner != owner or record.ended or self._expired(record):
                return None
            return replace(record, lease=replace(record.lease, expires=self.clock()))

        held = [r.name for r in self.records() if r.lease is not None and r.lease.owner == owner]
        changed = [self._change(name, change, f"{owner} died") for name in held]
        return [record for record in changed if record is not None]

    # ------------------------------------------------------------------ writing
    def _owned(self, claim: Claim, change: Callable[[Record], Record], note: str = "") -> Record:
        def guarded(record: Record) -> Record:
            if token(record) != claim.token or record.ended:
                raise LeaseLost(
                    f"{claim.name} is {record.status}, held by {record.lease and record.lease.owner}"
                )
            changed = change(record)
            if changed.ended:
                return replace(changed, lease=None, cancelling=False)
            if changed.lease is None:
                return changed
            return replace(changed, lease=changed.lease.renewed(self.clock(), self.lease_s))

        record = self._change(claim.name, guarded, note)
        assert record is not None
        return record

    def _expired(self, record: Record) -> bool:
        return record.lease is None or record.lease.is_over(self.clock())

    def _change(self, name: str, change: Change, note: str, fresh: Record | None = None) -> Record | None:
        """Change a record, or write `fresh` where there is none; None when `change` has nothing to change."""

        def step(there: Record | None) -> Record | None:
            if there is None and fresh is not None:
                return self._stamped(fresh, fresh, "added")
            record = there or self.record(name)
            changed = change(record)
            return None if changed is None else self._stamped(record, changed, note)

        return self._objects.change(check_concept_name(name), step)

    def _stamped(self, before: Record, after: Record, note: str) -> Record:
        now = self.clock()
        history = after.history
        # also from a lane that died preparing, when the status stays
        taken = after.lease is not None and token(after) != token(before)
        if after.status != before.status or before is after or after.attempt != before.attempt or taken:
            history = (*history, (now, after.status, note[:300]))[-HISTORY:]
        return replace(after, updated=now, revision=before.revision + 1, history=history)


def open_batch(registry: Storage, name: str, **options: Any) -> BatchState:
    """The state of a batch, below its registry."""
    return BatchState(registry.sub(f"batches/{check_concept_name(name)}"), **options)


def batches(registry: Storage) -> Iterator[str]:
    """Names of the batches that were begun with a registry."""
    for info in registry.list("batches/"):
        match info.key.split("/"):
            case [_, name, "batch.json"]:
                yield name
