"""How processes that train take turns: each does a step when it is told to, and answers what that took.

Imported before anything else in a process, also in one that must import nothing else of this project.
"""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

GO, REST, END = "one step", "all steps that are left", "end"


class Took(NamedTuple):
    """One step of a side."""

    cpu: float  # seconds of the process, all its threads
    wall: float
    spatial: bool  # whether it had a spatial pass, too


class Turns:
    """A process's end. Its first step, with all that comes before it, is not waited for."""

    def __init__(self, fd: int) -> None:
        self.connection = Connection(fd)
        self._waits = True
        self._mark()

    def tell(self, what: dict[str, Any]) -> None:
        """What the other end wants to know beside the steps."""
        self.connection.send(what)

    def done(self, *, spatial: bool) -> None:
        """A step is done. Returns when the next one may begin."""
        self.connection.send(Took(time.process_time() - self._cpu, time.perf_counter() - self._wall, spatial))
        if self._waits:
            word = self.connection.recv()
            if word == END:
                raise SystemExit(0)
            self._waits = word != REST
        self._mark()

    def _mark(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()
