"""A training job as it is asked for, and who is told how it goes. Imports neither torch nor Ray."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Job:
    """What is trained on what, and where the results go. The settings are a `TrainConfig`."""

    concept: str
    data: str  # URI of a clip set
    run_dir: str  # folder or URI of the run
    registry: str  # URI
    foundation: str | None = None
    address: str | None = None  # of a Ray cluster; None starts one here
    publish_as: str | None = None  # another name for what comes of it, to compare methods on the same clips

    @property
    def name(self) -> str:
        """The concept that the version is published under."""
        return self.publish_as or self.concept


class Watcher:
    """Is told what a job does. This one looks away; the command line's shows it."""

    def stage(self, text: str) -> None:
        """The next part of the job begins."""

    def passed(self, text: str, seconds: float) -> None:
        """A part is done."""

    def note(self, text: str) -> None:
        """Something to know about what is learned: a part of a clip or of a caption that is not."""

    def prepared(self, done: int, total: int) -> None:
        """So many clips have their latents."""

    def started(self, step: int, steps: int, workers: int, device: str) -> None:
        """Workers train from `step` on (again, after one was lost)."""

    def stepped(self, report: Mapping[str, Any]) -> None:
        """A step was done (`training.report.StepReport` as a mapping)."""

    def sampled(self, step: int, keys: Sequence[str]) -> None:
        """Sample videos of a step are in the run's storage; the last key is their contact sheet."""


@contextmanager
def part(watcher: Watcher, text: str) -> Iterator[None]:
    """A part of a job: the watcher is told that it begins and, when it went well, how long it took."""
    watcher.stage(text)
    began = time.monotonic()
    yield
    watcher.passed(text, time.monotonic() - began)
