"""Which engine a request goes to. Plain Python; `serving.router` asks it for Ray Serve.

An engine's delay for a request is the work it has, and what is missing there: nothing for an adapter in a slot, half of
`slack` for one in host memory, all of it for one that must be fetched; `slack` counts in requests like this one, for
a batch with room makes waiting cheap. The engine with the least delay gets it. So an adapter stays where it is, a hot one
goes to a further engine once its holders have `slack` more requests than the least loaded has, and a cold one goes to
the least loaded; among equals to its own by rendezvous hashing, so that several ingresses agree before anybody has
reported anything.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HOST = 0.5  # of `slack`, for an adapter that is in host memory
ABSENT = 1.0
NO_SLOT = 0.5  # on top, when no slot can be freed for it now
GRACE = 10.0  # seconds for which an adapter is held to be where it was sent, whatever the last report says
MOST_HOST = 256  # adapters in host memory that a report names


def key(path: str, sha256: str) -> str:
    """An adapter, as reports and choices name it."""
    return f"{path}:{sha256[:16]}"


@dataclass(frozen=True)
class Report:
    """What an engine said of itself a moment ago."""

    work: float = 0.0  # pixels through the denoiser that it has yet to make
    slots: frozenset[str] = frozenset()
    host: frozenset[str] = frozenset()
    full: frozenset[str] = frozenset()  # paths in which every slot is in use or pinned

    @classmethod
    def of(cls, stats: Mapping[str, Any]) -> Report:
        """From what crossed the process border; nothing yet is an engine without work and adapters."""
        sets = {name: frozenset(stats.get(name, ())) for name in ("slots", "host", "full")}
        return cls(work=float(stats.get("work", 0.0)), **sets)


@dataclass
class _Sent:
    engine: str
    adapters: tuple[str, ...]
    work: float


class Choice:
    """The engines as they are known, and what was sent to each since.

    Args:
        slack: how many requests more than the least loaded an engine may have and still be preferred for its adapters.
    """

    def __init__(self, slack: float = 4.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._slack, self._clock = slack, clock
        self._reports: dict[str, Report] = {}
        self._others: dict[str, float] = {}  # work that somebody else gave it
        self._sent: dict[str, _Sent] = {}
        self._own: dict[str, float] = {}  # engine -> work of `_sent`
        self._expected: dict[tuple[str, str], float] = {}  # (engine, adapter) -> when it was last sent there
        self._last: dict[str, int] = {}  # engine -> number of the last request it got
        self._number = 0
        self._typical = 1.0  # work of a request, for calls that bring none

    def update(self, reports: Mapping[str, Report]) -> None:
        """The engines there are, with their newest reports; what was sent to others is gone with them."""
        for id in [id for id, sent in self._sent.items() if sent.engine not in reports]:
            self.done(id)
        for engine, report in reports.items():
            if report != self._reports.get(engine):
                self._others[engine] = max(0.0, report.work - self._own.get(engine, 0.0))
        self._reports = dict(reports)
        self._own = {engine: self._own.get(engine, 0.0) for engine in reports}
        self._last = {engine: self._last.get(engine, 0) for engine in reports}
        self._others = {engine: self._others[engine] for engine in reports}
        horizon = self._clock() - GRACE
        self._expected = {
            pair: at for pair, at in self._expected.items() if at > horizon and pair[0] in reports
        }

    def load(self, engine: str) -> float:
        """Work it has, as far as known here."""
        return self._own[engine] + self._others[engine]

    def rank(self, adapters: Sequence[str] = (), work: float | None = None) -> list[str]:
        """Every engine, the best first."""
        unit = self._slack * (work or self._typical)

        def delay(engine: str) -> tuple[float, float]:
            missing = [self._missing(engine, adapter) for adapter in adapters]
            spread = rendezvous(engine, adapters) if adapters else float(self._last[engine])
            return self.load(engine) + unit * sum(missing) / max(1, len(missing)), spread

        return sorted(self._reports, key=delay)

    def sent(self, id: str, engine: str, adapters: Sequence[str] = (), work: float = 0.0) -> None:
        """A request goes to that engine; said again, it goes elsewhere than was said before."""
        self.done(id)
        if engine not in self._reports:
            return
        self._number += 1
        self._last[engine] = self._number
        self._sent[id] = _Sent(engine, tuple(adapters), work)
        self._own[engine] += work
        if work:
            self._typical += (work - self._typical) / min(self._number, 100)
        for adapter in adapters:
            self._expected[engine, adapter] = self._clock()

    def done(self, id: str) -> None:
        """The request is no longer there, however it ended; without effect for one that is not known."""
        sent = self._sent.pop(id, None)
        if sent is not None and sent.engine in self._own:
            self._own[sent.engine] = max(0.0, self._own[sent.engine] - sent.work)

    def _missing(self, engine: str, adapter: str) -> float:
        report = self._reports[engine]
        if adapter in report.slots or (engine, adapter) in self._expected:
            return 0.0
        missing = HOST if adapter in report.host else ABSENT
        return missing + (NO_SLOT if adapter.partition(":")[0] in report.full else 0.0)


def rendezvous(engine: str, adapters: Sequence[str]) -> float:
    """A number that is the same everywhere: the engine with the least is the adapters' own among equals."""
    text = " ".join((engine, *sorted(adapters)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")
