"""Prometheus metrics of a training, through the Ray exporter of its node (`ray_motiondirector_train_...`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.util import metrics

if TYPE_CHECKING:
    from training.loop.report import StepReport

SECONDS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100]


class TrainingMetrics:
    """Progress of each concept. Each training process has one instance and calls it after every step.

    `EndMetrics` reports how concepts ended.
    """

    def __init__(self) -> None:
        def gauge(name: str, description: str, *tags: str) -> metrics.Gauge:
            return metrics.Gauge(
                f"motiondirector_train_{name}", description=description, tag_keys=("concept", *tags)
            )

        self._step = gauge("step", "Steps done.")
        self._steps = gauge("steps", "Steps to do.")
        self._loss = gauge("loss", "Loss of the last step.", "path")
        self._seconds = metrics.Histogram(
            "motiondirector_train_step_seconds",
            description="Time of one optimizer step.",
            boundaries=SECONDS,
            tag_keys=("concept",),
        )

    def __call__(self, concept: str, report: StepReport) -> None:
        tags = {"concept": concept}
        self._step.set(report.step, tags=tags)
        self._steps.set(report.steps, tags=tags)
        self._loss.set(report.spatial_loss, tags={**tags, "path": "spatial"})
        self._loss.set(report.temporal_loss, tags={**tags, "path": "temporal"})
        self._seconds.observe(report.seconds, tags=tags)


class EndMetrics:
    """Ended concepts. The driver reports them: a worker's gauges are lost when its process ends."""

    def __init__(self) -> None:
        self._ended = metrics.Gauge(
            "motiondirector_train_ended",
            description="1 for a concept that was published, failed or was cancelled.",
            tag_keys=("concept", "status"),
        )

    def __call__(self, concept: str, status: str) -> None:
        """Report a published, failed or cancelled concept. Call it repeatedly: Ray forgets gauges."""
        self._ended.set(1, tags={"concept": concept, "status": status})
