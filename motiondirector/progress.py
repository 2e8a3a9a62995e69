"""Progress of long work on stderr: one bar for each thing that is going on, made when it is first heard of."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from infra.warnings_heard import WarningsHeard


class Bars:
    """`with Bars() as bars: bars("base", 3, 40)`. On stderr, so that --json stays clean; gone when the block ends."""

    def __init__(self) -> None:
        console = Console(stderr=True)
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

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """So much of `what` is done; `note` stands beside its name."""
        if what not in self.tasks:
            self.tasks[what] = self.progress.add_task(escape(what), total=total)
        text = f"{what}, {note}" if note else what
        self.progress.update(self.tasks[what], completed=done, total=total, description=escape(text))

    def done(self, what: str) -> None:
        """Take one bar away."""
        if what in self.tasks:
            self.progress.remove_task(self.tasks.pop(what))

    def clear(self) -> None:
        """Take the bars away: what follows is another round of the same things."""
        for task in self.tasks.values():
            self.progress.remove_task(task)
        self.tasks.clear()

    def say(self, text: str) -> None:
        """A line that stays, above the bars."""
        self.progress.console.print(text, highlight=False, soft_wrap=True, markup=False)


class Warnings(WarningsHeard):
    """Warnings of this project's loggers as lines, for the length of a block: they would tear bars and tables apart, and are
    not shown at all where something else listens to them (training/batch/logs.py).

    Args:
        say: shows a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        self.say(f"{record.levelname.lower()}: {record.getMessage()}")
