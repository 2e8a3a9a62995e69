"""Lets training processes take turns: each runs a step on request and answers with its cost.

A process imports this first; it may be the only module of this project that the process imports.
"""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

GO, REST, END = "one step", "all remaining steps", "end"


class Took(NamedTuple):
    """The cost of a side's step."""

    cpu: float  # CPU seconds of the process, all threads
    wall: float
    spatial: bool  # whether it also had a spatial pass


class Turns:
    """A process's end of the connection. It runs its first step, and all before it, without waiting for a request."""

    def __init__(self, fd: int) -> None:
        self.connection = Connection(fd)
        self._waits = True
        self._mark()

    def send(self, message: dict[str, Any]) -> None:
        """Send something other than a step's cost."""
        self.connection.send(message)

    def done(self, *, spatial: bool) -> None:
        """Report a finished step. Returns when the next one may begin."""
        self.connection.send(Took(time.process_time() - self._cpu, time.perf_counter() - self._wall, spatial))
        if self._waits:
            word = self.connection.recv()
            if word == END:
                raise SystemExit(0)
            self._waits = word != REST
        self._mark()

    def _mark(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()
