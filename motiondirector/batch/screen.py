"""Shows a batch while its lanes work: a live table on a terminal; elsewhere a line for each ended concept and, at
intervals, a line with the state of the batch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from motiondirector.batch.run import BatchObserver
from motiondirector.batch.tables import show_plan, show_remarks
from motiondirector.progress import EVERY_S, Bars, Warnings

if TYPE_CHECKING:
    from training.batch.manifest.plan import Plan
    from training.batch.state.record import Record
    from training.batch.watch.watcher import LaneState

ROWS = 24
STATES = ("queued", "preparing", "training", "published", "failed", "cancelled")


class BatchScreen:
    """A context manager; called with the records and the lanes whenever they were read."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self._live = (
            Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        )
        self._ended: set[tuple[str, int]] = set()
        self._lanes: dict[str, str] = {}
        self._shown, self._at = "", clock()  # the last state line, and when it was printed

    def __enter__(self) -> BatchScreen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, records: Sequence[Record], lanes: Sequence[LaneState]) -> None:
        for record in records:
            if record.ended and (record.name, record.attempt) not in self._ended:
                self._ended.add((record.name, record.attempt))
                self._say(f"{record.name}: {record.status} {record.version or record.reason or ''}")
        now = {lane.name: lane.host for lane in lanes}
        for name, host in now.items():
            if host and not self._lanes.get(name):
                self._say(f"lane {name} runs on {host}")
        for name in sorted(self._lanes.keys() - now.keys()):
            self._say(f"lane {name} has ended")
        self._lanes = now
        if self._live is not None:
            self._live.update(status_table(records, lanes), refresh=True)
        elif self.clock() - self._at >= EVERY_S and (line := status_line(records, lanes)) != self._shown:
            self._shown, self._at = line, self.clock()
            self._say(line)

    def _say(self, text: str) -> None:
        self.console.print(escape(text), highlight=False, soft_wrap=True)


class OnScreen(BatchObserver):
    """Shows a batch on a console; warnings about the inputs go to stderr."""

    def __init__(self, console: Console) -> None:
        self.console, self.screen = console, BatchScreen(console)

    def warned(self, text: str) -> None:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[yellow]warning:[/] {escape(text)}")

    @contextmanager
    def measuring_here(self) -> Iterator[Bars]:
        with Bars() as bars:
            bars.say("measuring this device for groups of settings that were not measured before")
            yield bars

    def planned(self, plan: Plan, name: str, remarks: Mapping[str, Sequence[str]]) -> None:
        show_plan(self.console, plan, name)
        show_remarks(self.console, remarks)

    @contextmanager
    def working(self) -> Iterator[None]:
        with self.screen, Warnings(self._line):
            yield

    def updated(self, records: Sequence[Record], lanes: Sequence[LaneState]) -> None:
        self.screen(records, lanes)

    def loading(self, foundation: str | None) -> None:
        """Print a line when a lane of this process loads a foundation, because the table does not change meanwhile."""
        self._line(f"loading {foundation or 'the embedded foundation'}")

    def _line(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def status_table(records: Sequence[Record], lanes: Sequence[LaneState], rows: int = ROWS) -> Group:
    """Concepts that train, then waiting and ended ones, in at most `rows` rows; the counts of all are below."""
    table = Table("concept", "state", "step", "loss", "left", "lane")
    order = {state: place for place, state in enumerate(("training", "preparing", "queued", "failed"))}
    shown = sorted(records, key=lambda record: order.get(record.status, len(order)))[:rows]
    for record in shown:
        table.add_row(
            record.name,
            "cancelling" if record.cancelling else "paused" if record.paused else record.status,
            f"{record.step}/{record.steps}",
            "" if record.loss is None else f"{record.loss:.4f}",
            time_left(record),
            "" if record.lease is None else record.lease.owner,
        )
    if len(records) > rows:
        table.add_row(f"... and {len(records) - rows} more")
    return Group(table, counted(records, lanes))


def status_line(records: Sequence[Record], lanes: Sequence[LaneState], most: int = 8) -> str:
    """`status_table` as one line for a log: the counts, and at most `most` concepts that train."""
    training = [record for record in records if record.status == "training"]
    parts = [
        f"{record.name} {record.step}/{record.steps}"
        + ("" if record.loss is None else f" loss {record.loss:.4f}")
        + (f" {left} left" if (left := time_left(record)) else "")
        for record in training[:most]
    ]
    if len(training) > most:
        parts.append(f"and {len(training) - most} more")
    return "; ".join([counted(records, lanes), *parts])


def counted(records: Sequence[Record], lanes: Sequence[LaneState]) -> str:
    """Number of concepts in each state, and of lanes."""
    counts: Counter[str] = Counter(record.status for record in records)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    running = sum(bool(lane.host) for lane in lanes)
    return f"{states}; lanes: {running} running, {len(lanes) - running} starting"


def time_left(record: Record) -> str:
    """Time left of a concept that trains, as "3:20" (minutes and seconds) or "1:03:20"; "" for others."""
    if record.status != "training" or record.step_seconds is None:
        return ""
    minutes, seconds = divmod(round((record.steps - record.step) * record.step_seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
