"""Results of training steps: the report of one step, and the averages that a version is published with."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

RECENT = 50  # number of last steps whose mean losses are published


@dataclass(frozen=True)
class StepReport:
    """Result of one step. Losses are means over all samples of the step, on all workers."""

    step: int  # steps done, from 1
    steps: int
    loss: float
    spatial_loss: float
    temporal_loss: float
    learning_rate: float
    seconds: float

    def asdict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Recent:
    """The latest steps of one concept."""

    _rows: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=RECENT))

    def add(self, report: StepReport) -> None:
        """Add a step."""
        self._rows.append((report.spatial_loss, report.temporal_loss, report.seconds))

    def metrics(self) -> dict[str, float]:
        """Mean losses and time of the latest steps. At least one step must have been added."""
        spatial, temporal, seconds = (
            sum(column) / len(self._rows) for column in zip(*self._rows, strict=True)
        )
        return {
            "loss": spatial + temporal,
            "spatial_loss": spatial,
            "temporal_loss": temporal,
            "seconds_per_step": seconds,
        }
