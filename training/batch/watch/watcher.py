"""What observers of lanes get: a lane's state, and its events for a screen, the logs, the metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.batch.state.record import Record
    from training.loop.report import StepReport


@dataclass(frozen=True)
class LaneState:
    """The state of a lane as its supervisor knows it."""

    name: str
    workers: int
    host: str = ""  # where it runs; empty while it waits for resources or starts up
    pid: int = 0
    node: str = ""  # Ray's node id
    end: str | None = None  # done, idle, stopped; failed, died
    reason: str | None = None  # for failed and died


class Watcher:
    """Receives a lane's events. This base class ignores them."""

    def loading(self, foundation: str | None) -> None:
        """The lane loads a foundation."""

    def measuring(self, group: str) -> None:
        """The lane measures its device with steps of this group, or takes another lane's result."""

    def preparing(self, name: str) -> None:
        """The lane computes or fetches a concept's latents."""

    def stepped(self, name: str, report: StepReport) -> None:
        """A concept did a step."""

    def ended(self, record: Record) -> None:
        """A concept was published, failed, or was cancelled."""
