"""The service's trainer: a durable batch in the registry's storage, whose lanes take what the ingress enters.

Used in the ingress's process, so it imports no torch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from infra.errors import Conflict, NotFound
from infra.registry import Registry, open_registry, parse_ref
from infra.storage import FolderStorage, Storage
from models.locating import FoundationFacts, foundation_facts
from motiondirector.service.orders import config_of, prepare_order
from serving.config import ServeConfig
from serving.trainings.trainer import Clips, Order, Prepared, Standing, TrainerState
from training.batch.state.record import Record, Status
from training.batch.state.state import BatchState, open_batch
from training.batch.state.work import Work

STATES: dict[Status, TrainerState] = {
    "queued": "queued",
    "preparing": "running",
    "training": "running",
    "published": "published",
    "failed": "failed",
    "cancelled": "cancelled",
}


def batch_of(registry: Registry, fingerprint: str) -> BatchState:
    """The service's batch for a foundation, which its lanes follow; it exists from now on.

    One for each foundation, so that no lane meets a work that it cannot train.
    """
    name = f"service-{fingerprint[:12]}"
    batch = open_batch(registry.storage, name)
    batch.create({"manifest": name, "registry": registry.uri})
    return batch


class BatchTrainer:
    """A `serving.trainings.trainer.Trainer` over a batch for each foundation.

    Args:
        registry: URI of the concepts; the batches are in the same storage.
        foundation: path or id of the served foundation.
        most_steps: of a training.
        most_pixels: frames x height x width of a clip; None: four times the foundation's own.
    """

    def __init__(
        self, registry: str, foundation: str | None, *, most_steps: int, most_pixels: int | None = None
    ) -> None:
        self._registry, self._source = open_registry(registry), foundation
        if isinstance(storage := self._registry.storage, FolderStorage):
            # Else the server would take the registry that nothing was published in yet for an unmounted one.
            storage.root.mkdir(parents=True, exist_ok=True)
        self._most_steps, self._most_pixels = most_steps, most_pixels
        self._batches: dict[str, BatchState] = {}  # by fingerprint
        self._lock = threading.Lock()  # a batch's state is for one thread at a time
        self._facts: FoundationFacts | None = None

    def check(self, order: Order) -> None:
        config_of(order, self._foundation(order), self._most_steps, self._pixels(order))

    def prepare(
        self, order: Order, clips: Sequence[Clips], folder: Path, target: Storage, beat: Callable[[], None]
    ) -> Prepared:
        facts = self._foundation(order)
        config = config_of(order, facts, self._most_steps, self._pixels(order))
        return prepare_order(order, clips, folder, target, facts, self._source, config, beat)

    def enter(self, work: Mapping[str, Any], priority: int) -> None:
        given = Work.from_dict({**work, "priority": priority})
        with self._lock:
            batch = self._batch(given.fingerprint)
            with suppress(NotFound):
                there = batch.record(given.name)
                if there.work["data"] == given.data:
                    return
            batch.add([given], is_gone=self._is_gone)
            if batch.record(given.name).status == "cancelled":  # an earlier training of the same
                batch.retry(given.name)

    def standings(self, works: Collection[Mapping[str, Any]]) -> list[Standing | None]:
        with self._lock:
            batches = {
                fingerprint: self._batch(fingerprint)
                for fingerprint in {work["fingerprint"] for work in works}
            }
            there = {
                (fingerprint, record.name): record
                for fingerprint, batch in batches.items()
                for record in batch.records()
            }
        return [standing_of(there.get((work["fingerprint"], work["name"])), work) for work in works]

    def cancel(self, work: Mapping[str, Any]) -> None:
        with self._lock, suppress(NotFound, Conflict):  # Conflict: it has ended
            batch = self._batch(work["fingerprint"])
            record = batch.record(work["name"])
            if record.work["data"] == work["data"]:
                batch.cancel(record.name)

    def pause(self, work: Mapping[str, Any]) -> None:
        self._rest(work, True)

    def resume(self, work: Mapping[str, Any]) -> None:
        self._rest(work, False)

    def _rest(self, work: Mapping[str, Any], paused: bool) -> None:
        with self._lock, suppress(NotFound, Conflict):  # Conflict: it has ended
            batch = self._batch(work["fingerprint"])
            if batch.record(work["name"]).work["data"] == work["data"]:
                (batch.pause if paused else batch.resume)(work["name"])

    def withdraw(self, version: str) -> None:
        with suppress(NotFound):
            self._registry.remove(version)

    def forget(self, prefix: str) -> None:
        for info in list(self._registry.storage.list("batches/service-")):
            _, _, *rest = info.key.split("/")
            if any(part.startswith(prefix) for part in rest):
                self._registry.storage.delete(info.key)

    def _batch(self, fingerprint: str) -> BatchState:
        if fingerprint not in self._batches:
            self._batches[fingerprint] = batch_of(self._registry, fingerprint)
        return self._batches[fingerprint]

    def _foundation(self, order: Order) -> FoundationFacts:
        if self._facts is None or self._facts.fingerprint != order.foundation:
            self._facts = foundation_facts(self._source, order.foundation)
        return self._facts

    def _pixels(self, order: Order) -> int:
        own = self._foundation(order).sizes.defaults.bucket
        return self._most_pixels or 4 * own.frames * own.height * own.width

    def _is_gone(self, version: str) -> bool:
        name, number = parse_ref(version)
        return number in self._registry.numbers(name, "removed")


def standing_of(record: Record | None, work: Mapping[str, Any]) -> Standing | None:
    """Where a work stands, by the record of its concept; None if that is of another work."""
    if record is None:
        return None
    own = record.work["data"] == work["data"]
    if not own and (record.status != "published" or record.sha256 != Work.from_dict(work).sha256):
        return None
    return Standing(
        state="paused" if record.paused and not record.ended else STATES[record.status],
        step=record.step,
        loss=record.loss,
        step_seconds=record.step_seconds,
        version=record.version,
        reason=record.reason,
        own=own,
    )


def open_trainer(config: ServeConfig) -> BatchTrainer:
    """The trainer of a server."""
    assert config.registry is not None
    return BatchTrainer(
        config.registry,
        config.foundation,
        most_steps=config.max_train_steps,
        most_pixels=config.max_pixels,
    )
