"""What a training shows on its way from the workers to the driver: over an actor, without a barrier, and never in its way."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from infra.cluster import here, short
from training.shown import harmless

log = logging.getLogger(__name__)

KEPT_EVENTS, KEPT_SAMPLES = (
    10_000,
    4,
)  # on the board while the driver is away: steps are small, adapters are not
TAKE_EVERY_S, TAKE_S = 0.3, 30.0


class Board:
    """An actor: workers pin up what happened, the driver takes it down. The oldest makes room for what is new."""

    def __init__(self) -> None:
        self.events: deque[dict[str, Any]] = deque(maxlen=KEPT_EVENTS)
        self.samples: deque[dict[str, Any]] = deque(maxlen=KEPT_SAMPLES)
        self.lost = 0

    def push(self, event: dict[str, Any]) -> None:
        pinned = self.samples if event["kind"] == "sample" else self.events
        self.lost += len(pinned) == pinned.maxlen
        pinned.append(event)

    def take(self) -> tuple[list[dict[str, Any]], int]:
        """What was pinned up since the last call, and how much more made room for it."""
        taken, lost = [*self.events, *self.samples], self.lost
        self.events.clear()
        self.samples.clear()
        self.lost = 0
        return taken, lost


def put_up_board() -> Any:
    """A `Board` beside this driver: on another node it would go with it. Where its process is lost, another takes its place."""
    import ray

    return ray.remote(Board).options(num_cpus=0, label_selector=here(), max_restarts=-1).remote()


@contextmanager
def watching(board: Any, on_event: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Hand the board's events to `on_event` from a thread while the block runs, the last ones at its end.

    Nothing of it is raised: a board that does not answer is asked again, until the block ends.
    """
    import ray

    done = threading.Event()

    def watch() -> None:
        asked: Any = (
            None  # an answer that took too long has its events: it is waited for, not asked for again
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
                    log.warning("what the training shows does not come through: %s", short(error))
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
    """Tells the board what a worker does before it trains: each part as it begins and, with its seconds, when it is done.

    Args:
        board: None: tells nobody.
    """

    def __init__(self, board: Any) -> None:
        self.board = board

    def _tell(self, kind: str, **event: Any) -> None:
        if self.board is not None:
            self.board.push.remote({"kind": kind, **event})

    def arrived(self, text: str) -> None:
        """The worker is there: a part is done that the driver began, which knows when."""
        self._tell("part", text=text, seconds=None)

    @contextmanager
    def doing(self, text: str) -> Iterator[None]:
        """Within the block goes on what the text says."""
        self._tell("stage", text=text)
        began = time.monotonic()
        yield
        self._tell("part", text=text, seconds=time.monotonic() - began)
