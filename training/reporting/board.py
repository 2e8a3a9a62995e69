"""Passes training progress from the workers to the driver through an actor, without blocking the training."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from infra.ray.cluster import last_line, this_node
from training.reporting.shown import harmless

log = logging.getLogger(__name__)

KEPT_EVENTS, KEPT_SAMPLES = (
    10_000,
    4,
)  # kept while the driver is away: steps are small, adapters are large
TAKE_EVERY_S, TAKE_S = 0.3, 30.0


class Board:
    """An actor that queues events from workers for the driver. When full, it drops the oldest events."""

    def __init__(self) -> None:
        self.events: deque[dict[str, Any]] = deque(maxlen=KEPT_EVENTS)
        self.samples: deque[dict[str, Any]] = deque(maxlen=KEPT_SAMPLES)
        self.lost = 0

    def push(self, event: dict[str, Any]) -> None:
        pinned = self.samples if event["kind"] == "sample" else self.events
        self.lost += len(pinned) == pinned.maxlen
        pinned.append(event)

    def take(self) -> tuple[list[dict[str, Any]], int]:
        """Returns the events since the last call, and the number of dropped ones."""
        taken, lost = [*self.events, *self.samples], self.lost
        self.events.clear()
        self.samples.clear()
        self.lost = 0
        return taken, lost


def put_up_board() -> Any:
    """Start a `Board` on this driver's node, so that it survives other nodes. Ray restarts it if it dies."""
    import ray

    return ray.remote(Board).options(num_cpus=0, label_selector=this_node(), max_restarts=-1).remote()


@contextmanager
def watching(board: Any, on_event: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Pass the board's events to `on_event` from a thread while the block runs; the last ones when it ends.

    Errors are logged, not raised. A board that does not answer is asked again until the block ends.
    """
    import ray

    done = threading.Event()

    def watch() -> None:
        asked: Any = (
            None  # a request that timed out still carries its events: wait for it again, do not repeat it
        )
        away = False
        while True:
            last, late = done.wait(TAKE_EVERY_S), asked is not None
            try:
                asked = asked or board.take.remote()
                events, lost = ray.get(asked, timeout=TAKE_S)
                asked = None
            except Exception as error:
                if not isinstance(error, ray.exceptions.GetTimeoutError):
                    asked = None
                if last or not away:
                    log.warning("what the training shows does not come through: %s", last_line(error))
                if last:
                    return
                away = True
                continue
            away = False
            if lost:
                log.warning("%d steps or samples are not shown: the driver came for them too late", lost)
            for event in events:
                with harmless(f"what step {event.get('step', 0)} shows is lost"):
                    on_event(event)
            if last and not late:
                return

    thread = threading.Thread(target=watch, name="training-board", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Parts:
    """Reports a worker's start-up to the board: each part when it begins, and when it ends with its duration.

    Args:
        board: None: report nothing.
    """

    def __init__(self, board: Any) -> None:
        self.board = board

    def _tell(self, kind: str, **event: Any) -> None:
        if self.board is not None:
            self.board.push.remote({"kind": kind, **event})

    def arrived(self, text: str) -> None:
        """Report the end of a part that the driver began (and timed), such as the start of this worker."""
        self._tell("part", text=text, seconds=None)

    @contextmanager
    def doing(self, text: str) -> Iterator[None]:
        """Report the block as a part: its begin, and its duration at the end."""
        self._tell("stage", text=text)
        began = time.monotonic()
        yield
        self._tell("part", text=text, seconds=time.monotonic() - began)
