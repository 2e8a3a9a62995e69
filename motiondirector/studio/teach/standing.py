"""Where a training stands, for people: in words, as a bar that never goes back, and with the time that is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving.jobs.training_tables import Training
from serving.trainings.names import model_of
from serving.trainings.store import CANCELLED, FAILED, FINAL, RUNNING, SUCCEEDED, VALIDATING

SOON = 45.0  # seconds below which no number is said
WORDS = {
    VALIDATING: "Looking at the clips",
    SUCCEEDED: "Learned",
    FAILED: "Failed",
    CANCELLED: "Cancelled",
}


@dataclass(frozen=True)
class Look:
    """A training as a page shows it.

    Args:
        progress: of 100; it does not go back when a lane that died is replaced.
        left: the time that is left, in words; "" if it is not known.
        motion: NAME@VERSION for requests, once it has succeeded.
    """

    training: Training
    name: str
    words: str
    progress: int
    left: str
    motion: str | None

    @property
    def is_over(self) -> bool:
        return self.training.state in FINAL


def look_at(training: Training, name: str, before: int, losses: Sequence[tuple[int, float]]) -> Look:
    """Describe a training.

    Args:
        name: of its motion, as its owner says it.
        before: unfinished trainings of the same owner that are older.
        losses: (step, loss) of its events.
    """
    furthest = max([training.step, *(step for step, _ in losses)])
    share = furthest / training.steps if training.steps else 0.0
    motion = None if training.version is None else model_of(training.version).removeprefix("foundation:")
    return Look(
        training=training,
        name=name,
        words=state(training, before),
        progress=100 if training.state == SUCCEEDED else min(99, int(100 * share)),
        left=time_left(training),
        motion=motion,
    )


def state(training: Training, before: int) -> str:
    """What is happening with a training."""
    match training.state:
        case "queued":
            mine = "one of your trainings" if before == 1 else f"{before} of your trainings"
            return f"Waiting: {mine} before it" if before else "Waiting for a free place"
        case "running":
            return f"Learning: step {training.step} of {training.steps}" if training.step else "Getting ready"
        case other:
            return WORDS[other]


def time_left(training: Training) -> str:
    """The time that its remaining steps take at the pace of the last ones, in words; "" if unknown."""
    if training.state != RUNNING or training.step_seconds is None or not training.steps:
        return ""
    return f"{duration(training.step_seconds * max(0, training.steps - training.step))} left"


def duration(seconds: float) -> str:
    """A time in words, as exactly as an estimate deserves."""
    if seconds < SOON:
        return "less than a minute"
    minutes = round(seconds / 60)
    if minutes <= 1:
        return "about a minute"
    if minutes < 90:
        return f"about {minutes} minutes"
    hours = round(minutes / 60)
    return f"about {hours} hours"
