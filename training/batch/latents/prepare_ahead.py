"""A thread of a lane that prepares waiting concepts while the lane trains.

    with BackgroundPreparation(batch_state, owner, foundation, dtype, lock): ...

It uses the lane's functions and modules under one lock, so results are the same. Lanes of one batch
share the work as leased tasks (`prepared/` in the batch's storage, exclusive.py). Errors are left to the
lane, which will meet them too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from infra.errors import UserError
from models.dtypes import DTYPES
from training.batch.latents.prepare import STOPPED, Missing, Portion, Prepared, prepare_portions
from training.batch.state.exclusive import preparation_task, preparation_tasks
from training.batch.state.record import Record
from training.batch.state.state import BatchState

if TYPE_CHECKING:
    from models.foundations.base import Foundation

log = logging.getLogger(__name__)

LOOKAHEAD = 16  # number of concepts at the head of the queue to consider
LEASE_S = 300.0  # lease of a task: preparing one concept takes far less
POLL_S = 5.0


class BackgroundPreparation:
    """A context manager; the thread runs during the block.

    Args:
        batch: used from the thread; do not share it.
        foundation: with all parts. Concepts of other foundations are skipped.
        dtype: the foundation's, "float32" or "bfloat16".
        lock: held while encoding.
    """

    def __init__(
        self,
        batch: BatchState,
        owner: str,
        foundation: Foundation,
        dtype: str,
        lock: AbstractContextManager[Any],
    ) -> None:
        self.batch, self.foundation, self.dtype, self.lock = batch, foundation, dtype, lock
        self.tasks = preparation_tasks(batch, owner, LEASE_S)
        self.prepared: list[Prepared] = []  # so far
        self._missing = Missing()
        self._seen: set[tuple[str, str]] = set()
        self._task_names: dict[str, str] = {}  # name of a work -> name of its task
        self._over = threading.Event()
        self._thread: threading.Thread

    def __enter__(self) -> BackgroundPreparation:
        self._over.clear()
        self._thread = threading.Thread(target=self._run, name="batch-preparation", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Returns when the thread has finished the clip that it encodes and has stored its results."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.once()
            except UserError as error:  # such as a short outage of the storage: the lane reports longer ones
                log.info("concepts are not prepared ahead: %s", error.message)
            except Exception:
                log.exception("no more concepts are prepared ahead; the lane prepares each when it takes it")
                return
            self._over.wait(POLL_S)

    def once(self) -> None:
        """Prepare the concepts that wait now. Raises UserError."""
        try:
            made = prepare_portions(self._portions(), self.foundation, self.lock, self._over.is_set)
            for done in made:
                self.prepared.append(done)
                if done.error != STOPPED:
                    task = self._task_names.pop(done.portion.name)
                    self.tasks.done(task, {"made": done.made, "error": done.error})
        finally:
            for task in self._task_names.values():
                self.tasks.give_back(task)
            self._task_names.clear()

    def _portions(self) -> Iterator[Portion]:
        """The portions of concepts at the head of the queue, which is read again for each: it moves."""
        while not self._over.is_set() and (record := self._next()) is not None:
            task = preparation_task(record.name, record.sha256)
            self._seen.add((record.name, record.sha256))
            if not self.tasks.take(task):
                continue
            for portion in self._missing.of_all([record.parsed_work]):
                self._task_names[record.name] = task
                yield portion
            if record.name not in self._task_names:  # nothing is missing, or its clips cannot be read
                self.tasks.done(task, {"made": 0, "error": None})

    def _next(self) -> Record | None:
        waiting = [record for record in self.batch.records() if record.status == "queued"]
        for record in waiting[:LOOKAHEAD]:
            work = record.work
            suits = (
                work["fingerprint"] == self.foundation.fingerprint
                and DTYPES[work["config"]["dtype"]] == self.dtype
            )
            if suits and (record.name, record.sha256) not in self._seen:
                return record
        return None
