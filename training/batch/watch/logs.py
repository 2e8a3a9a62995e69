"""Log lines of a batch's lanes, kept in the batch's storage and read with `motiondirector runs logs`.

    <batch>/logs/concepts/<name>/<milliseconds>-<token>-<number>.jsonl    {"time", "lane", "text"} per line
    <batch>/logs/lanes/<lane>/...

Storage cannot append. A journal rewrites the object with its newest lines until it is full, then begins
another and deletes the oldest of that name: each name keeps at most `KEPT` objects of about `FULL`
bytes. A killed lane loses the lines since its last write. An unavailable storage delays lines but never
stops a lane.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from infra.errors import UserError
from infra.storage import ObjectNotFound, Storage
from infra.storage.stored import parse_object
from infra.warning_handler import WarningHandler
from training.batch.watch.watcher import Watcher

if TYPE_CHECKING:
    from training.batch.state.record import Record
    from training.loop.report import StepReport

Kind = Literal["concepts", "lanes"]
FULL = 32 * 1024  # largest bytes of an object, not counting its last line
KEPT = 16  # objects per name
LONGEST = 4000  # characters of a line
MAX_PENDING = 5000  # lines kept while the storage is unavailable
EVERY_S = 10.0
AHEAD_S = 60.0  # largest expected clock difference between machines


@dataclass(frozen=True)
class Line:
    """One line of a log."""

    time: float  # UTC seconds
    lane: str
    text: str


@dataclass
class _Open:
    """The object to which a name's lines are written now."""

    key: str
    body: bytes = b""
    number: int = 0


class Journal:
    """Collects lines and writes them from a thread. A context manager.

    Args:
        storage: of the batch.
        lane: the lane's name.
        every_s: seconds between two writes.
    """

    def __init__(
        self, storage: Storage, lane: str, *, clock: Callable[[], float] = time.time, every_s: float = EVERY_S
    ) -> None:
        self.storage, self.lane, self.clock, self.every_s = storage, lane, clock, every_s
        self._token = uuid.uuid4().hex[:8]
        self._lines: deque[tuple[Kind, str, bytes]] = deque(maxlen=MAX_PENDING)
        self._open: dict[tuple[Kind, str], _Open] = {}
        self._over = threading.Event()
        self._writing = threading.Lock()
        self._thread: threading.Thread

    def write(self, text: str, concept: str | None = None) -> None:
        """Add a line to a concept's log, or to the lane's. May be called from any thread."""
        line = {"time": self.clock(), "lane": self.lane, "text": text[:LONGEST]}
        kind: Kind = "lanes" if concept is None else "concepts"
        self._lines.append((kind, concept or self.lane, json.dumps(line).encode() + b"\n"))

    def __enter__(self) -> Journal:
        self._thread = threading.Thread(target=self._run, name="batch-journal", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        over = False
        while not over:
            over = self._over.wait(self.every_s)
            try:
                self.flush()
            except UserError as error:
                log.warning("log lines could not be written: %s", error.message)

    def flush(self) -> None:
        """Write the collected lines. If the storage is unavailable, keeps them and raises UserError."""
        with self._writing:
            taken = [self._lines.popleft() for _ in range(len(self._lines))]
            by_name: dict[tuple[Kind, str], list[bytes]] = {}
            for kind, name, line in taken:
                by_name.setdefault((kind, name), []).append(line)
            try:
                for (kind, name), lines in list(by_name.items()):
                    self._append(kind, name, lines)
                    del by_name[kind, name]
            except UserError:
                rest = [(kind, name, line) for (kind, name), lines in by_name.items() for line in lines]
                self._lines.extendleft(reversed(rest))
                raise

    def _append(self, kind: Kind, name: str, lines: list[bytes]) -> None:
        """Write lines to a name's object, and begin another when it is full."""
        folder = f"logs/{kind}/{name}"
        while lines:
            now = self._open.get((kind, name))
            if now is None or len(now.body) >= FULL:
                number = now.number + 1 if now is not None else 0
                key = f"{folder}/{int(self.clock() * 1000):013d}-{self._token}-{number:04d}.jsonl"
                now = _Open(key, number=number)
                kept = [info.key for info in self.storage.list(f"{folder}/")]
                # Objects from a clock that was ahead count as the oldest, so that they do not stay the
                # newest.
                ahead = f"{folder}/{int((self.clock() + AHEAD_S) * 1000):013d}"
                kept.sort(key=lambda key: "" if key > ahead else key)
                for key in kept[: max(0, len(kept) - KEPT + 1)]:
                    self.storage.delete(key)
            body, count = now.body, 0
            while count < len(lines) and (len(body) < FULL or not count):
                body, count = body + lines[count], count + 1
            self.storage.put(now.key, body)
            now.body = body
            self._open[kind, name] = now
            del lines[:count]


@dataclass
class Reader:
    """Reads a log, and on later calls only the new lines."""

    storage: Storage  # of the batch
    _seen: dict[str, tuple[str, int]] = field(default_factory=dict)  # key -> (etag, lines)

    def new(self, kind: Kind, name: str | None = None) -> list[Line]:
        """Lines that this reader has not returned yet, of one name or all, ordered by time."""
        lines: list[Line] = []
        for info in list(self.storage.list(f"logs/{kind}/{name}/" if name else f"logs/{kind}/")):
            etag, given = self._seen.get(info.key, ("", 0))
            if etag == info.etag:
                continue
            try:
                found = list(_lines(self.storage.get(info.key), f"{info.key} of {self.storage.uri}"))
            except ObjectNotFound:  # an old object, deleted since the listing
                continue
            lines += found[given:]
            self._seen[info.key] = info.etag, len(found)
        return sorted(lines, key=lambda line: line.time)


def _lines(body: bytes, where: str) -> Iterator[Line]:
    for line in body.splitlines():
        yield parse_object(Line, line, where, "delete it; only its log lines are lost")


class Notes(Watcher):
    """Writes a lane's events to a journal.

    Args:
        every_s: seconds between two lines about a concept's steps; its first and last step are always
            written.
        clock: seconds of a monotonic clock.
        private: concepts are named in their own logs alone, with which their names can be erased.
    """

    def __init__(
        self,
        journal: Journal,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
        *,
        private: bool = False,
    ) -> None:
        self.journal, self.every_s, self.clock, self.private = journal, every_s, clock, private
        self.concepts: set[str] = set()
        self._written_at: dict[str, float] = {}

    def loading(self, foundation: str | None) -> None:
        self.journal.write(f"loading {foundation or 'the embedded foundation'}")

    def measuring(self, group: str) -> None:
        self.journal.write(f"reading or measuring the profile of {group}; takes at most a minute")

    def preparing(self, name: str) -> None:
        self.concepts.add(name)
        self._written_at.pop(name, None)
        self.journal.write("preparing", name)

    def stepped(self, name: str, report: StepReport) -> None:
        now = self.clock()
        if report.step == report.steps or now - self._written_at.get(name, float("-inf")) >= self.every_s:
            self._written_at[name] = now
            self.journal.write(
                f"step {report.step}/{report.steps}, loss {report.loss:.4f}, {report.seconds:.3g} s per step",
                name,
            )

    def ended(self, record: Record) -> None:
        said = record.version or record.reason or ""
        self.journal.write(f"{record.status} {said}".rstrip(), record.name)
        self.journal.write(record.status if self.private else f"{record.name}: {record.status}")


class JournalHandler(WarningHandler):
    """Writes warnings and errors of this project's loggers, with tracebacks, to the journal.

    A message that begins with a concept's name goes to the concept's log, others to the lane's.
    """

    def __init__(self, notes: Notes) -> None:
        super().__init__()
        self.notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        concept, colon, _ = text.partition(": ")
        named = concept if colon and concept in self.notes.concepts else None
        if self.notes.private and named is None:
            named = next((name for name in self.notes.concepts if name in text), None)
        self.notes.journal.write(f"{record.levelname.lower()}: {text}", named)


class Several(Watcher):
    """Passes events to several watchers."""

    def __init__(self, *watchers: Watcher) -> None:
        self.watchers = watchers

    def loading(self, foundation: str | None) -> None:
        self._each("loading", foundation)

    def measuring(self, group: str) -> None:
        self._each("measuring", group)

    def preparing(self, name: str) -> None:
        self._each("preparing", name)

    def stepped(self, name: str, report: StepReport) -> None:
        self._each("stepped", name, report)

    def ended(self, record: Record) -> None:
        self._each("ended", record)

    def _each(self, method: str, *arguments: Any) -> None:
        for watcher in self.watchers:
            getattr(watcher, method)(*arguments)


log = logging.getLogger(__name__)
