"""Who is told what a lane does: a screen, the logs, the metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.batch.record import Record
    from training.report import StepReport


class Watcher:
    """Is told what a lane does. This one looks away."""

    def loading(self, foundation: str | None) -> None:
        """A foundation is loaded."""

    def measuring(self, group: str) -> None:
        """The device is measured with steps of this group, unless another lane does or did."""

    def preparing(self, name: str) -> None:
        """A concept's latents are computed or fetched."""

    def stepped(self, name: str, report: StepReport) -> None:
        """A concept did a step."""

    def ended(self, record: Record) -> None:
        """A concept was published, failed, or was cancelled."""
