"""What an engine tells about a request: `Admitted`, `Progressed` ..., then one of `Finished`, `Failed`, `Cancelled`.

Values, all of them: they cross process borders as they are.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from infra.errors import SystemFailure, Unavailable, UserError

log = logging.getLogger(__name__)


class FoundationChanged(Unavailable):
    """The engine holds another model than the request is for."""

    default_code = "foundation_changed"


@dataclass(frozen=True)
class Admitted:
    """The request is in the batch. Seconds it waited, and of these for its adapters."""

    queue: float
    adapter_load: float


@dataclass(frozen=True)
class Progressed:
    """Steps done, of how many; requests and distinct adapters in the last one's batch."""

    step: int
    steps: int
    batch: int = 1
    adapters: int = 0


@dataclass(frozen=True)
class Finished:
    """The video. `timings` in seconds by stage."""

    mp4: bytes
    sha256: str
    timings: dict[str, float]
    neighbours: int = 0  # most other requests that were in one of its steps
    batch_adapters: int = 0  # most distinct adapters in one of its steps, its own included


@dataclass(frozen=True)
class Failed:
    """The request cannot be made."""

    error: UserError

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        """A UserError speaks for itself; anything else is this program's fault and is logged."""
        if isinstance(error, UserError):
            return cls(copy.copy(error))  # without its traceback, which holds tensors
        log.error("request failed", exc_info=error)
        return cls(SystemFailure(f"internal error while making the video ({type(error).__name__})"))

    @property
    def message(self) -> str:
        return self.error.message

    @property
    def code(self) -> str:
        return self.error.code


@dataclass(frozen=True)
class Cancelled:
    """As asked."""


Event = Admitted | Progressed | Finished | Failed | Cancelled
Listener = Callable[[Event], None]


class Observe(Protocol):
    """Where an engine's observations go: a metric's name (`serving.metrics.ENGINE`), its value, its labels."""

    def __call__(self, name: str, value: float, labels: Mapping[str, str] | None = None) -> None: ...


def unobserved(name: str, value: float, labels: Mapping[str, str] | None = None) -> None:
    """Nobody looks."""
