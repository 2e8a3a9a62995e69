"""Runs a batch from its plan to its end, with one lane in this process."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Protocol

from infra.errors import Conflict, Unavailable, UserError
from infra.registry import Registry
from training.batch.lane.lane import Lane
from training.batch.manifest.plan import Plan
from training.batch.profile.profile import Profile
from training.batch.state.outage import Outage
from training.batch.state.record import Record, check_idle, workers_of
from training.batch.state.state import BatchState
from training.batch.state.work import Work
from training.batch.watch.live_view import LiveView, ShowBatch
from training.batch.watch.logs import Journal, JournalHandler, Notes, Several
from training.batch.watch.validation import Validate, Validating
from training.batch.watch.watcher import Watcher

POLL_S = 5.0
FOLLOW_S = 1.0  # seconds between looks for new concepts
FOLLOW_BEAT_S = 2.0  # seconds between reports of a concept's progress: somebody watches
log = logging.getLogger(__name__)


def enter(
    batch: BatchState, plan: Plan, about: Mapping[str, Any], registry: Registry | None = None
) -> list[Record]:
    """Write a plan's works into the batch; creates the batch if needed. Returns the records that now wait.

    With `registry`, concepts that this batch published and that were removed since are trained again.
    Works that the plan found done are withdrawn, so that they are not trained with an earlier
    manifest's data or settings.

    Raises:
        Conflict: some of them are being trained with other settings; nothing is written.
    """
    # Works that stay ended are written too: a later retry then uses their new priority and placement.
    works = [*plan.works, *(one.work for one in plan.left)]
    check_all_idle(batch, [*works, *(done.work for done in plan.done)])
    batch.create(about)
    batch.withdraw(done.work for done in plan.done)

    def is_gone(version: str) -> bool:
        name = version.partition("@")[0]
        return registry is not None and all(kept.ref != version for kept in registry.versions(name))

    return batch.add(works, is_gone=is_gone)


def check_all_idle(batch: BatchState, works: Iterable[Work]) -> None:
    """Raises Conflict, naming all concepts that lanes train now with other data or settings."""
    there = {record.name: record for record in batch.records()}
    problems = []
    for work in works:
        try:
            if work.name in there:
                check_idle(there[work.name], work.sha256)
        except UserError as error:
            problems.append(error.message)
    if problems:
        raise Conflict("\n".join(problems), code="concept_busy")


def train_batch(
    batch: BatchState,
    registry: Registry,
    *,
    pack: int | None = None,
    profile: Profile | None = None,
    device: str | None = None,
    watcher: Watcher | None = None,
    show_batch: ShowBatch | None = None,
    validate: Validate | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Record]:
    """Train until every concept of the batch has ended, also those of other lanes. Returns the records.

    Concepts that ask for several workers are left to lanes on Ray: it returns when only those remain.

    If killed and called again, it continues: its concepts are free again when their leases expire. On
    Ctrl-C or SIGTERM it checkpoints and gives back its concepts, and returns; a second Ctrl-C ends it
    at once.

    Args:
        show_batch: a thread calls it every second with the records and the lane (training/batch/watch/live_view.py).
        validate: a child process calls it with each published version (training/batch/watch/validation.py);
            `validations` reads the results. The function then returns when all are validated.

    Raises:
        Unavailable: the storage stays unavailable.
    """
    owner = f"{socket.gethostname()}-{os.getpid()}"
    beside = nullcontext() if validate is None else Validating(batch, registry, validate)
    with Journal(batch.storage, owner) as journal, ExitStack() as stack:
        notes = Notes(journal)
        watchers = [notes, watcher or Watcher()]
        if show_batch is not None:
            own = BatchState(batch.storage, clock=batch.clock, lease_s=batch.lease_s)
            watchers.append(stack.enter_context(LiveView(own, owner, show_batch)))
        lane = Lane(
            batch,
            registry,
            owner=owner,
            pack=pack,
            profile=profile,
            device=device,
            watcher=Several(*watchers),
            workers=1,
        )
        with JournalHandler(notes), stopped_by_signals(lane), beside as validating:
            records = _until_all_ended(lane, batch, sleep)
            if validating is not None and not lane.stopping:
                validating.finish(lambda: lane.stopping)
            return records


def follow_batch(
    batch: BatchState,
    registry: Registry,
    *,
    over: threading.Event,
    pack: int | None = None,
    device: str | None = None,
    every_s: float = FOLLOW_S,
    private: bool = False,
) -> None:
    """Train whatever is added to the batch, until it is stopped: by `over`, SIGINT or SIGTERM.

    It then checkpoints and gives back its concepts. A storage that does not answer is waited for, without end.

    Args:
        private: as in `training.batch.watch.logs.Notes`.

    Raises:
        UserError: the storage denies access or is full, or the foundation cannot be loaded here.
    """
    owner = f"{socket.gethostname()}-{os.getpid()}"
    with Journal(batch.storage, owner) as journal:
        notes = Notes(journal, private=private)
        lane = Lane(
            batch,
            registry,
            owner=owner,
            pack=pack,
            device=device,
            watcher=notes,
            workers=1,
            every_s=FOLLOW_BEAT_S,
        )
        ended = threading.Event()
        beside = threading.Thread(target=_stop_when, args=(lane, over, ended), daemon=True)
        beside.start()
        try:
            with JournalHandler(notes), stopped_by_signals(lane):
                while not lane.stopping:
                    try:
                        lane.run()
                    except Unavailable as error:
                        log.warning("%s", error.message)
                    over.wait(every_s)
        finally:
            ended.set()


def _stop_when(lane: Lane, over: threading.Event, ended: threading.Event) -> None:
    """Stop the lane when `over` is set."""
    while not ended.is_set():
        if over.wait(1.0):
            lane.stop()
            return


def _until_all_ended(lane: Lane, batch: BatchState, sleep: Callable[[float], None]) -> list[Record]:
    outage = Outage()
    while True:
        with outage.passing():
            lane.run(outage.answered)
            records = batch.records()
            if lane.stopping or all(record.ended or workers_of(record) > 1 for record in records):
                return records
        sleep(POLL_S)  # other lanes train them or died with them, or the storage is unavailable


class Stoppable(Protocol):
    """A lane, or a driver of lanes."""

    def stop(self) -> None: ...
    @property
    def stopping(self) -> bool: ...


@contextmanager
def stopped_by_signals(lane: Stoppable) -> Iterator[None]:
    """During the block, SIGINT and SIGTERM stop the lane in order. No effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: Any) -> None:
        if lane.stopping and number == signal.SIGINT:
            raise KeyboardInterrupt
        lane.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
