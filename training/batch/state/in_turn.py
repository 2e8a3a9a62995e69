"""What one process does and others find done: whoever begins holds a turn, who comes meanwhile waits a little.

A concept's clips are encoded so, and a kind of device measured (measuring.py).

    turns = preparing_turns(batch, owner)
    with in_turn(turns, turn_of(work.name, work.sha256), stopping):
        clips = prepare_work(work, foundation, lock)       # finds what the other made, makes what it did not

A wait that lasts is worse than a thing made twice, so it is bounded; what a process held that died or failed is free or done, and
made by who finds it so.
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
LOOK_S = 0.5


def preparing_turns(batch: BatchState, owner: str, lease_s: float | None = None) -> LeasedTasks:
    """The turns of a batch's preparation, for one process or thread.

    Args:
        owner: of the lane; its own threads do not wait for each other here, but at their lock.
        lease_s: how long one lasts; the claims' when not given.
    """
    return LeasedTasks(
        batch.storage.sub("prepared"), owner, lease_s=lease_s or batch.lease_s, clock=batch.clock
    )


def turn_of(name: str, sha256: str) -> str:
    """What the turn at a work's clips is called, by its name and hash (`Work.sha256`)."""
    return f"{name}-{sha256[:16]}"


@contextmanager
def in_turn(
    turns: LeasedTasks, turn: str, stopping: threading.Event, patience_s: float | None = None
) -> Iterator[None]:
    """The block does a thing, when no other process does or after it was waited for; it is to look first what there is.

    Args:
        stopping: set, the wait ends.
        patience_s: the longest wait; `PATIENCE_S` when not given.

    Raises:
        UserError: the storage is away.
    """
    mine = _taken(turns, turn, stopping, PATIENCE_S if patience_s is None else patience_s)
    try:
        yield
    except BaseException:
        if mine:
            with suppress(UserError):  # the storage is away: it runs out
                turns.give_back(turn)
        raise
    if mine:
        turns.done(turn, {"error": None})


def _taken(turns: LeasedTasks, turn: str, stopping: threading.Event, patience_s: float) -> bool:
    """Whether it is this process's now; False: it is done, or was waited for in vain."""
    until = time.monotonic() + patience_s
    while not turns.take(turn):
        told = turns.look(turn)
        if told is not None and (told.result is not None or told.owner == turns.owner):
            return False
        if time.monotonic() >= until or stopping.wait(LOOK_S):
            return False
    return True
