"""Progress of long work on stderr: one bar for each thing that is going on, made when it is first heard of; lines in a log."""

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

EVERY_S = 30.0  # between lines about what is going on, where there are no bars
MOMENT_S = 1.0  # what is done sooner than that needs no line


class Bars:
    """`with Bars() as bars: bars("base", 3, 40)`. On stderr, so that --json stays clean; gone when the block ends.

    Where stderr is no terminal (a log file, a job's output) it is lines: one when something that took longer than a moment
    is done, and at most one each EVERY_S seconds of all that is going on. May be called from several threads.

    Args:
        console: where it is shown.
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
            disable=not console.is_terminal,  # a log file wants lines, not bars
        )
        self.tasks: dict[str, Any] = {}
        self.clock = clock
        self._said = clock()  # when the last line was written
        self._under_way: dict[str, tuple[float, str]] = {}  # what -> (since when, how far it is)
        self._lock = Lock()

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """So much of `what` is done; `note` stands beside its name."""
        text = f"{what}, {note}" if note else what
        with self._lock:
            if what not in self.tasks:
                self.tasks[what] = self.progress.add_task(escape(what), total=total)
            self.progress.update(self.tasks[what], completed=done, total=total, description=escape(text))
            if self.progress.disable:
                self._line(what, f"{text}: {done} of {total}" if total else text, 0 < total <= done)

    def _line(self, what: str, told: str, is_done: bool) -> None:
        now = self.clock()
        since, before = self._under_way.get(what, (now, ""))
        if is_done:
            if before:
                del self._under_way[what]
            if now - since >= MOMENT_S:
                self.say(told)
            return
        self._under_way[what] = since, told
        if now - self._said >= EVERY_S:
            self._said = now
            self.say("; ".join(text for _, text in self._under_way.values()))

    def done(self, what: str) -> None:
        """Take one bar away."""
        with self._lock:
            self._under_way.pop(what, None)
            if what in self.tasks:
                self.progress.remove_task(self.tasks.pop(what))

    def clear(self) -> None:
        """Take the bars away: what follows is another round of the same things."""
        with self._lock:
            self._under_way.clear()
            for task in self.tasks.values():
                self.progress.remove_task(task)
            self.tasks.clear()

    def say(self, text: str) -> None:
        """A line that stays, above the bars."""
        self.progress.console.print(text, highlight=False, soft_wrap=True, markup=False)


def no_bars() -> Bars:
    """Bars that nobody sees."""
    return Bars(Console(quiet=True))


def terminal_bars() -> Bars:
    """Bars on a terminal, and no lines elsewhere."""
    return Bars() if Console(stderr=True).is_terminal else no_bars()


class Warnings(WarningHandler):
    """Warnings of this project's loggers as lines, for the length of a block: they would tear bars and tables apart, and are
    not shown at all where something else listens to them (training/batch/watch/logs.py).

    Args:
        say: shows a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        self.say(f"{record.levelname.lower()}: {record.getMessage()}")
