"""The state of a batch: one small object per concept in the storage, changed by compare-and-swap.

    <registry>/batches/<batch>/batch.json                describes the batch; written once
    <registry>/batches/<batch>/concepts/<name>.json      a `Record`
    <registry>/batches/<batch>/checkpoints/<name>/...    states of members (training/batch/lane/lane.py)
    <registry>/batches/<batch>/logs/...                  lines of lanes and concepts (training/batch/watch/logs.py)

    queued -> preparing -> training -> published | failed | cancelled         (retry: back to queued)

No process is in charge. A lane *claims* a concept with a lease (infra/storage/leases.py) and renews it while
it trains. When a claim expires, any other lane may take the concept and continue from the last checkpoint
in its record. So each concept ends exactly once, whichever processes die.
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

HISTORY = 40  # number of changes that a record keeps

Change = Callable[[Record], Record | None]


@dataclass(frozen=True)
class Begun:
    """The required fields of batch.json."""

    id: HexId
    created: float  # UTC seconds


class BatchState:
    """A batch's records. Keeps only a cache of its last reads, so any number of processes may use one storage.

    Args:
        storage: of this batch.
        clock: UTC seconds.
        lease_s: seconds after which a claim expires unless renewed; renew it at least three times as often.
    """

    def __init__(
        self, storage: Storage, *, clock: Callable[[], float] = time.time, lease_s: float = LEASE_S
    ) -> None:
        self.storage, self.clock, self.lease_s = storage, clock, lease_s
        remedy = "restore it from a copy, or delete it and add the concept again"
        self._objects = Objects(storage, "concepts/", Record.decode, remedy)
        self._seen: dict[str, tuple[str, Record]] = {}  # name -> (etag, record)

    # ------------------------------------------------------------------ the batch
    def create(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """Create the batch unless it exists. Returns the content of batch.json, with the batch's `id`."""
        content = {**about, "id": uuid.uuid4().hex, "created": self.clock()}
        self.storage.put_if_absent("batch.json", json.dumps(content, sort_keys=True).encode())
        return self.about()

    def about(self) -> dict[str, Any]:
        """The content of batch.json. Raises NotFound if there is no such batch."""
        try:
            body = self.storage.get("batch.json")
        except ObjectNotFound:
            raise NotFound(
                f"no batch at {self.storage.uri}; `motiondirector runs list` lists all batches.",
                code="batch_not_found",
            ) from None
        where = f"batch.json of {self.storage.uri}"
        parse_object(Begun, body, where, "restore it from a copy, or start a batch with another name")
        return json.loads(body)

    # ----------------------------------------------------------------- reading
    def records(self) -> list[Record]:
        """All records, in the order in which concepts begin. Needs one listing; reads only changed records."""
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
        """The record of one concept. Raises NotFound."""
        record = self._objects.get(check_concept_name(name))
        if record is None:
            raise NotFound(
                f"concept {name} is not in the batch {self.storage.uri}; `motiondirector runs show` lists its concepts.",
                code="concept_not_found",
            )
        return record

    # ------------------------------------------------------- changes by users
    def add(
        self, works: Iterable[Work], *, is_gone: Callable[[str], bool] = lambda version: False
    ) -> list[Record]:
        """Add concepts to the batch, or add them again with other data or settings. Returns the waiting records.

        A concept that is already there with the same hash (of all that affects the result) keeps its state
        and takes over the other settings, such as priority, checkpoint interval and gradient checkpointing.
        It is queued again if it failed with other values of these, if its published version was removed, or
        if it was withdrawn.

        Args:
            is_gone: whether a published version ("orbit@1") was removed.

        Raises:
            Conflict: a concept with another hash is being trained. It and the works after it are not added.
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
        """Cancel waiting concepts that were added with other data or settings than these works, which are done.

        Raises:
            Conflict: a concept is being trained with them. It and the works after it are not withdrawn.
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
        """The record after adding a concept again with the same hash; None if it stays unchanged."""
        # The plan reports beforehand which concepts stay ended (`record.stays_ended`).
        again = replace(fresh, attempt=record.attempt + 1, history=record.history)
        if record.status == "published":
            return again if record.version is not None and is_gone(record.version) else None
        if record.status == "cancelled" and record.reason == WITHDRAWN:
            return again
        if [record.work, record.priority] == json.loads(json.dumps([fresh.work, fresh.priority])):
            return None
        if record.status in RUNNING and not self._expired(record):
            return None  # its lane keeps the settings that it began with
        return (
            again if record.status == "failed" else replace(record, work=fresh.work, priority=fresh.priority)
        )

    def cancel(self, name: str) -> Record:
        """Cancel a concept. If a lane holds it, it ends when the lane notices. Raises Conflict if it has ended."""

        def change(record: Record) -> Record | None:
            if record.status == "cancelled":
                return None
            if record.ended:
                raise Conflict(
                    f"concept {name} is already {record.status}; only waiting or training concepts can be cancelled.",
                    code="concept_ended",
                )
            if record.status in RUNNING and not self._expired(record):
                return None if record.cancelling else replace(record, cancelling=True)
            return replace(record, status="cancelled", cancelling=False, lease=None)

        record = self._change(name, change, "requested") or self.record(name)
        if record.ended:
            self.forget(name)
        return record

    def pause(self, name: str) -> Record:
        """Let no lane train a concept until `resume`. Raises Conflict if it has ended.

        A lane that has it checkpoints and gives it back when it notices.
        """
        return self._set_paused(name, True)

    def resume(self, name: str) -> Record:
        """Let lanes take a paused concept again; it goes on from its last checkpoint. Raises Conflict if it has ended."""
        return self._set_paused(name, False)

    def _set_paused(self, name: str, paused: bool) -> Record:
        def change(record: Record) -> Record | None:
            if record.ended:
                raise Conflict(
                    f"concept {name} is already {record.status}; only waiting or training concepts can be paused and resumed.",
                    code="concept_ended",
                )
            return None if record.paused == paused else replace(record, paused=paused)

        return self._change(name, change, "") or self.record(name)

    def forget(self, name: str) -> None:
        """Delete the checkpoints of a concept that has ended."""
        for info in list(self.storage.list(f"checkpoints/{check_concept_name(name)}/")):
            self.storage.delete(info.key)

    def retry(self, name: str) -> Record:
        """Queue a failed or cancelled concept again, from its first step. Raises Conflict."""

        def change(record: Record) -> Record | None:
            if record.status not in ("failed", "cancelled"):
                raise Conflict(
                    f"concept {name} is {record.status}; only failed or cancelled concepts can be retried.",
                    code="concept_not_ended",
                )
            return queued(record, attempt=record.attempt + 1)

        return self._change(name, change, "retried") or self.record(name)

    # --------------------------------------------------------- changes by lanes
    def claim(self, owner: str, *, suits: Callable[[Record], bool] = lambda record: True) -> Claim | None:
        """Claim the next concept that waits or whose lane died. Returns None if no such concept suits.

        A concept that lost its lane more than `max_failures` times fails instead.

        Args:
            owner: the lane's name, for people.
            suits: whether this lane can take a record.
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
        """The record after a lane asks for it; None if it stays unchanged."""
        if record.ended or (record.paused and not record.cancelling) or not suits(record):
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
                reason=f"its lane was lost {lost} times (max_failures {most}), last at step {record.step}; check the "
                "lanes' memory and logs, then retry it.",
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
        """Renew a claim. With `step`, also record the progress and the status "training".

        If the returned record is `cancelling`, the lane must stop training it.

        Raises:
            LeaseLost: another lane has the concept, or it ended.
        """

        def change(record: Record) -> Record:
            progress: dict[str, Any] = {}
            if step is not None:
                progress = {"status": "training", "step": step, "loss": loss, "step_seconds": step_seconds}
            return replace(record, **progress)

        return self._owned(claim, change)

    def checkpointed(self, claim: Claim, step: int, key: str) -> Record:
        """Record a checkpoint, already in the storage, to continue the concept from. Raises LeaseLost."""
        return self._owned(claim, lambda record: replace(record, checkpoint=key, checkpoint_step=step))

    def publish(
        self,
        claim: Claim,
        version: str,
        *,
        step: int,
        loss: float | None = None,
        step_seconds: float | None = None,
    ) -> Record:
        """Record that the concept was published as this version. Raises LeaseLost."""

        def change(record: Record) -> Record:
            seconds = record.step_seconds if step_seconds is None else step_seconds
            done = replace(record, version=version, step=step, loss=loss, step_seconds=seconds)
            return replace(done, status="published")

        return self._owned(claim, change, version)

    def fail(self, claim: Claim, reason: str) -> Record:
        """Record that the concept failed, and why. Raises LeaseLost."""
        return self._owned(claim, lambda r: replace(r, status="failed", reason=reason), reason)

    def cancelled(self, claim: Claim) -> Record:
        """Record that the lane stopped training a concept that was to be cancelled. Raises LeaseLost."""
        return self._owned(claim, lambda r: replace(r, status="cancelled"), "stopped by its lane")

    def release(self, claim: Claim) -> Record:
        """Give a concept back; another lane continues from its last checkpoint. Raises LeaseLost."""
        return self._owned(claim, lambda r: replace(r, status="queued", lease=None), "given back")

    def lapse(self, owner: str) -> list[Record]:
        """Expire all claims of a lane that is known to be dead. Returns the records that others can take now.

        If the lane is alive after all, it keeps the concepts that no other lane has taken.
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
                return replace(changed, lease=None, cancelling=False, paused=False)
            if changed.lease is None:
                return changed
            return replace(changed, lease=changed.lease.renewed(self.clock(), self.lease_s))

        record = self._change(claim.name, guarded, note)
        assert record is not None
        return record

    def _expired(self, record: Record) -> bool:
        return record.lease is None or record.lease.is_over(self.clock())

    def _change(self, name: str, change: Change, note: str, fresh: Record | None = None) -> Record | None:
        """Change a record, or write `fresh` if there is none. Returns None if `change` changes nothing."""

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
        # a concept taken from a lane that died while preparing keeps its status
        taken = after.lease is not None and token(after) != token(before)
        if after.status != before.status or before is after or after.attempt != before.attempt or taken:
            history = (*history, (now, after.status, note[:300]))[-HISTORY:]
        return replace(after, updated=now, revision=before.revision + 1, history=history)


def open_batch(registry: Storage, name: str, **options: Any) -> BatchState:
    """The state of a batch, stored under its registry."""
    return BatchState(registry.sub(f"batches/{check_concept_name(name)}"), **options)


def batches(registry: Storage) -> Iterator[str]:
    """Names of the batches of a registry."""
    for info in registry.list("batches/"):
        match info.key.split("/"):
            case [_, name, "batch.json"]:
                yield name
