"""Chooses the engine of a request. Plain Python; `serving.ray.router` uses it in Ray Serve.

An engine's delay for a request is its work plus the mean penalty of the request's adapters: none for one
in a slot, half of `slack` for one in host memory, all of `slack` for one that must be fetched. `slack` is
in units of requests like this one, because a batch with room makes waiting cheap. The engine with the
smallest delay gets the request. So an adapter stays where it is; a hot one spreads to another engine once
its holders have `slack` more requests than the least loaded engine; a cold one goes to the least loaded.
Among equals, rendezvous hashing decides, so several ingresses agree even before any report.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HOST = 0.5  # share of `slack` for an adapter in host memory
ABSENT = 1.0
NO_SLOT = 0.5  # added if no slot can be freed now
GRACE = 10.0  # seconds for which an adapter counts as present where it was sent, despite the last report
MAX_HOST = 256  # maximum adapters in host memory that a report names


def key(path: str, sha256: str) -> str:
    """The name of an adapter in reports and choices."""
    return f"{path}:{sha256[:16]}"


@dataclass(frozen=True)
class Report:
    """An engine's last report."""

    work: float = 0.0  # remaining work in denoised pixels
    slots: frozenset[str] = frozenset()
    host: frozenset[str] = frozenset()
    full: frozenset[str] = frozenset()  # paths whose slots are all in use or pinned

    @classmethod
    def of(cls, stats: Mapping[str, Any]) -> Report:
        """A report from an engine's statistics; empty ones mean no work and no adapters."""
        sets = {name: frozenset(stats.get(name, ())) for name in ("slots", "host", "full")}
        return cls(work=float(stats.get("work", 0.0)), **sets)


@dataclass
class _Sent:
    engine: str
    adapters: tuple[str, ...]
    work: float


class Choice:
    """The engines' last reports, and the requests sent to each since.

    Args:
        slack: an engine with the adapters is preferred while it has at most this many requests more than the
            least loaded engine.
    """

    def __init__(self, slack: float = 4.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._slack, self._clock = slack, clock
        self._reports: dict[str, Report] = {}
        self._others: dict[str, float] = {}  # engine -> work from other ingresses
        self._sent: dict[str, _Sent] = {}
        self._own: dict[str, float] = {}  # engine -> work in `_sent`
        self._expected: dict[tuple[str, str], float] = {}  # (engine, adapter) -> when it was last sent there
        self._last: dict[str, int] = {}  # engine -> number of the last request it got
        self._number = 0
        self._typical = 1.0  # typical work of a request, for calls without work

    def update(self, reports: Mapping[str, Report]) -> None:
        """Set the current engines and their newest reports. Drops requests sent to engines that are gone."""
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
        """The engine's work, as far as known here."""
        return self._own[engine] + self._others[engine]

    def rank(self, adapters: Sequence[str] = (), work: float | None = None) -> list[str]:
        """All engines, best first."""
        unit = self._slack * (work or self._typical)

        def delay(engine: str) -> tuple[float, float]:
            missing = [self._missing(engine, adapter) for adapter in adapters]
            spread = rendezvous(engine, adapters) if adapters else float(self._last[engine])
            return self.load(engine) + unit * sum(missing) / max(1, len(missing)), spread

        return sorted(self._reports, key=delay)

    def sent(self, id: str, engine: str, adapters: Sequence[str] = (), work: float = 0.0) -> None:
        """Record that a request goes to an engine; a later call for the same request replaces this one."""
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
        """Record that a request has ended in any way; no effect for an unknown one."""
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
    """A deterministic number for rendezvous hashing: among equal engines the smallest number wins."""
    text = " ".join((engine, *sorted(adapters)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")
