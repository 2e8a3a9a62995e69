"""The interface for observers of a lane: a screen, the logs, the metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.batch.record import Record
    from training.report import StepReport


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
