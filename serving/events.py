"""What an engine tells about a request: `Admitted`, `Progressed` ..., then one of `Finished`, `Failed`, `Cancelled`.

Values, all of them: they cross process borders as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from infra.errors import UserError

log = logging.getLogger(__name__)
OTHER_FOUNDATION = (
    "foundation_changed"  # code of a refusal: the engine holds another model than the request is for
)


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
    """The request cannot be made; `status` is the HTTP status that fits."""

    message: str
    code: str
    status: int = 500

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        """A UserError speaks for itself; anything else is this program's fault and is logged."""
        if isinstance(error, UserError):
            return cls(error.message, error.code, error.status)
        log.error("request failed", exc_info=error)
        return cls(f"internal error while making the video ({type(error).__name__})", "internal_error")


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
