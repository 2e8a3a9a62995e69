"""Lets one process do a task while others wait for its result, for a limited time.

Encoding a concept's clips and measuring a kind of device (measuring.py) are such tasks.

    tasks = preparation_tasks(batch, owner)
    with exclusive(tasks, preparation_task(work.name, work.sha256), stopping):
        clips = prepare_work(work, foundation, lock)       # finds the other process's results, makes the rest

Waiting for long is worse than doing a task twice, so the wait is limited. If the process that holds a
task fails, it gives the task back; if it dies, its lease expires. The next process then does the task.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from infra.errors import UserError
from training.batch.state.leased_tasks import LeasedTasks
from training.batch.state.state import BatchState

PATIENCE_S = 60.0
POLL_S = 0.5


def preparation_tasks(batch: BatchState, owner: str, lease_s: float | None = None) -> LeasedTasks:
    """The preparation tasks of a batch, for one process or thread.

    Args:
        owner: the lane's name. Threads of one lane do not wait for each other here: they share a lock.
        lease_s: seconds that a task is held; default: the batch's lease.
    """
    return LeasedTasks(
        batch.storage.sub("prepared"), owner, lease_s=lease_s or batch.lease_s, clock=batch.clock
    )


def preparation_task(name: str, sha256: str) -> str:
    """The name of the task that prepares a work's clips, from the work's name and hash (`Work.sha256`)."""
    return f"{name}-{sha256[:16]}"


@contextmanager
def exclusive(
    tasks: LeasedTasks, task: str, stopping: threading.Event, patience_s: float | None = None
) -> Iterator[None]:
    """Hold a task during the block, or run the block after waiting for the process that holds it.

    The block must first look for results of the other process.

    Args:
        stopping: ends the wait when set.
        patience_s: longest wait in seconds; default: `PATIENCE_S`.

    Raises:
        UserError: the storage is unavailable.
    """
    mine = _taken(tasks, task, stopping, PATIENCE_S if patience_s is None else patience_s)
    try:
        yield
    except BaseException:
        if mine:
            with suppress(UserError):  # the storage is unavailable: the lease expires
                tasks.give_back(task)
        raise
    if mine:
        tasks.done(task, {"error": None})


def _taken(tasks: LeasedTasks, task: str, stopping: threading.Event, patience_s: float) -> bool:
    """Take the task. False if it is done, belongs to this lane, or was still held when the wait ended."""
    until = time.monotonic() + patience_s
    while not tasks.take(task):
        record = tasks.get(task)
        if record is not None and (record.result is not None or record.owner == tasks.owner):
            return False
        if time.monotonic() >= until or stopping.wait(POLL_S):
            return False
    return True
