"""Shows the progress of long work on stderr: one bar per task on a terminal, lines in a log file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Lock
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from infra.warning_handler import WarningHandler

EVERY_S = 30.0  # seconds between progress lines, if there are no bars
MOMENT_S = 1.0  # a task that is done sooner gets no line


class Bars:
    """`with Bars() as bars: bars("base", 3, 40)`. On stderr, so that --json stays clean; removed when the block ends.

    If stderr is not a terminal (a log file, a job's output), it prints lines: one when a task that took longer than
    MOMENT_S is done, and at most one every EVERY_S seconds about all running tasks. May be called from several threads.

    Args:
        console: where to show the progress.
        clock: seconds, for the lines.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        console = console or Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,  # a log file gets lines instead of bars
        )
        self.tasks: dict[str, Any] = {}
        self.clock = clock
        self._said = clock()  # when the last line was written
        self._running: dict[str, tuple[float, str]] = {}  # task -> (start time, its progress as text)
        self._lock = Lock()

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """Set the progress of the task `what`; `note` is shown beside its name."""
        text = f"{what}, {note}" if note else what
        with self._lock:
            if what not in self.tasks:
                self.tasks[what] = self.progress.add_task(escape(what), total=total)
            self.progress.update(self.tasks[what], completed=done, total=total, description=escape(text))
            if self.progress.disable:
                self._line(what, f"{text}: {done} of {total}" if total else text, 0 < total <= done)

    def _line(self, what: str, line: str, is_done: bool) -> None:
        now = self.clock()
        since, before = self._running.get(what, (now, ""))
        if is_done:
            if before:
                del self._running[what]
            if now - since >= MOMENT_S:
                self.say(line)
            return
        self._running[what] = since, line
        if now - self._said >= EVERY_S:
            self._said = now
            self.say("; ".join(text for _, text in self._running.values()))

    def done(self, what: str) -> None:
        """Remove one bar."""
        with self._lock:
            self._running.pop(what, None)
            if what in self.tasks:
                self.progress.remove_task(self.tasks.pop(what))

    def clear(self) -> None:
        """Remove all bars, before another round of the same tasks."""
        with self._lock:
            self._running.clear()
            for task in self.tasks.values():
                self.progress.remove_task(task)
            self.tasks.clear()

    def say(self, text: str) -> None:
        """Print a line that stays, above the bars."""
        self.progress.console.print(text, highlight=False, soft_wrap=True, markup=False)


def no_bars() -> Bars:
    """Bars that show nothing."""
    return Bars(Console(quiet=True))


def terminal_bars() -> Bars:
    """Bars on a terminal; nothing elsewhere."""
    return Bars() if Console(stderr=True).is_terminal else no_bars()


class Warnings(WarningHandler):
    """Prints warnings of this project's loggers as lines during a block.

    Printed directly, they would break bars and tables; and they are not shown at all if another handler takes them
    (training/batch/watch/logs.py).

    Args:
        say: shows a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        self.say(f"{record.levelname.lower()}: {record.getMessage()}")
