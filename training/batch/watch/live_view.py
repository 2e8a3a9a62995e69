"""Shows a batch's progress while a lane of this process works: its records, with the lane's newest steps.

Records are written only when claims are renewed, every third of a lease: too late for someone who watches.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from infra.errors import UserError
from training.batch.state.record import Record
from training.batch.state.state import BatchState
from training.batch.watch.watcher import LaneState, Watcher

if TYPE_CHECKING:
    from training.loop.report import StepReport

log = logging.getLogger(__name__)

ShowBatch = Callable[[Sequence[Record], Sequence[LaneState]], None]


class LiveView(Watcher):
    """A context manager that calls `show_batch` regularly from a thread with all records and this lane.

    It calls `show_batch` once more when the block ends. The lane must have this object among its watchers.

    Args:
        batch: used from the thread; do not share it.
        owner: the lane's name.
        every_s: seconds between two calls.
        read_s: seconds between two reads of the records, which other processes write too. When the lane
            begins or ends a concept, the next call reads them.
    """

    def __init__(
        self,
        batch: BatchState,
        owner: str,
        show_batch: ShowBatch,
        *,
        every_s: float = 1.0,
        read_s: float = 5.0,
    ) -> None:
        self.batch, self.show_batch, self.every_s, self.read_s = batch, show_batch, every_s, read_s
        self.lane = LaneState(owner, 1, host=socket.gethostname(), pid=os.getpid())
        self._records: Sequence[Record] = ()
        self._newest_progress: dict[str, dict[str, Any]] = {}
        self._read_at: float | None = None  # None: read at the next call
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batch-live-view", daemon=True)

    def __enter__(self) -> LiveView:
        self.show()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._read_at = None
        self.show()

    def preparing(self, name: str) -> None:
        self._newest_progress[name], self._read_at = {"status": "preparing"}, None

    def stepped(self, name: str, report: StepReport) -> None:
        self._newest_progress[name] = {
            "status": "training",
            "step": report.step,
            "loss": report.loss,
            "step_seconds": report.seconds,
        }

    def ended(self, record: Record) -> None:
        self._newest_progress.pop(record.name, None)
        self._read_at = None

    def show(self) -> None:
        """Call `show_batch` now. While the storage is unavailable (the lane reports it), use the last records."""
        if self._read_at is None or time.monotonic() - self._read_at >= self.read_s:
            self._read_at = time.monotonic()  # before reading: a change during the read causes another
            try:
                self._records = self.batch.records()
            except UserError as error:
                log.debug("the records could not be read: %s", error.message)
        self.show_batch([self._with_progress(record) for record in self._records], [self.lane])

    def _with_progress(self, record: Record) -> Record:
        progress = self._newest_progress.get(record.name)
        mine = record.lease is not None and record.lease.owner == self.lane.name
        return replace(record, **progress) if progress and mine and not record.ended else record

    def _run(self) -> None:
        while not self._over.wait(self.every_s):
            self.show()
