"""A thread of a lane that prepares waiting concepts while the lane trains.

    with Ahead(batch_state, owner, foundation, dtype, lock): ...

It uses the lane's functions and modules under one lock, so results are the same. Lanes of one batch
share the work by turns (`prepared/` in the batch's storage, in_turn.py). Errors are left to the lane,
which will meet them too.
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
from training.batch.state.in_turn import preparing_turns, turn_of
from training.batch.state.record import Record
from training.batch.state.state import BatchState

if TYPE_CHECKING:
    from models.foundations.base import Foundation

log = logging.getLogger(__name__)

AHEAD = 16  # number of concepts at the head of the queue to consider
LEASE_S = 300.0  # lease of a turn: preparing one concept takes far less
LOOK_S = 5.0


class Ahead:
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
        self.turns = preparing_turns(batch, owner, LEASE_S)
        self.prepared: list[Prepared] = []  # so far
        self._missing = Missing()
        self._looked: set[tuple[str, str]] = set()
        self._turn: dict[str, str] = {}  # name of a work -> name of its turn
        self._over = threading.Event()
        self._thread: threading.Thread

    def __enter__(self) -> Ahead:
        self._over.clear()
        self._thread = threading.Thread(target=self._run, name="batch-ahead", daemon=True)
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
                log.info("not prepared ahead: %s", error.message)
            except Exception:
                log.exception("concepts are no longer prepared ahead; the lane prepares each as it comes")
                return
            self._over.wait(LOOK_S)

    def once(self) -> None:
        """Prepare the concepts that wait now. Raises UserError."""
        try:
            made = prepare_portions(self._portions(), self.foundation, self.lock, self._over.is_set)
            for done in made:
                self.prepared.append(done)
                if done.error != STOPPED:
                    turn = self._turn.pop(done.portion.name)
                    self.turns.done(turn, {"made": done.made, "error": done.error})
        finally:
            for turn in self._turn.values():
                self.turns.give_back(turn)
            self._turn.clear()

    def _portions(self) -> Iterator[Portion]:
        """The portions of concepts at the head of the queue, which is read again for each: it moves."""
        while not self._over.is_set() and (record := self._next()) is not None:
            turn = turn_of(record.name, record.sha256)
            self._looked.add((record.name, record.sha256))
            if not self.turns.take(turn):
                continue
            for portion in self._missing.of_all([record.parsed_work]):
                self._turn[record.name] = turn
                yield portion
            if record.name not in self._turn:  # nothing is missing, or its clips cannot be read
                self.turns.done(turn, {"made": 0, "error": None})

    def _next(self) -> Record | None:
        waiting = [record for record in self.batch.records() if record.status == "queued"]
        for record in waiting[:AHEAD]:
            work = record.work
            suits = (
                work["fingerprint"] == self.foundation.fingerprint
                and DTYPES[work["config"]["dtype"]] == self.dtype
            )
            if suits and (record.name, record.sha256) not in self._looked:
                return record
        return None
