"""Events of a request in an engine: `Admitted`, `Progressed` ..., then `Finished`, `Failed` or `Cancelled`.

All are plain values that can be sent between processes.
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
    """The request is for another model than the engine's."""

    default_code = "foundation_changed"


@dataclass(frozen=True)
class Admitted:
    """The request joined the batch. Has the seconds it waited, and the part spent on loading adapters."""

    queue: float
    adapter_load: float


@dataclass(frozen=True)
class Progressed:
    """Steps done and steps in total; requests and distinct adapters in the last step's batch."""

    step: int
    steps: int
    batch: int = 1
    adapters: int = 0


@dataclass(frozen=True)
class Finished:
    """The finished video. `timings` are seconds by stage."""

    mp4: bytes
    sha256: str
    timings: dict[str, float]
    neighbours: int = 0  # maximum number of other requests of its tenant in one of its steps
    batch_adapters: int = 0  # maximum number of distinct adapters in one of its steps, including its own


@dataclass(frozen=True)
class Failed:
    """The request failed."""

    error: UserError

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        """Keep a UserError as it is; any other error is a bug, is logged and becomes a SystemFailure."""
        if isinstance(error, UserError):
            return cls(copy.copy(error))  # without its traceback, which holds tensors
        log.error("request failed", exc_info=error)
        return cls(SystemFailure(f"internal error while making the video ({type(error).__name__})."))

    @property
    def message(self) -> str:
        return self.error.message

    @property
    def code(self) -> str:
        return self.error.code


@dataclass(frozen=True)
class Cancelled:
    """The request was cancelled."""


Event = Admitted | Progressed | Finished | Failed | Cancelled
Listener = Callable[[Event], None]


class Observe(Protocol):
    """Receives an engine's measurements: a metric's name (`serving.http.metrics.ENGINE`), value and labels."""

    def __call__(self, name: str, value: float, labels: Mapping[str, str] | None = None) -> None: ...


def unobserved(name: str, value: float, labels: Mapping[str, str] | None = None) -> None:
    """Ignore the measurement."""
