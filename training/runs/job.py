"""A training job as the user requests it, and its progress callbacks. Imports neither torch nor Ray."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Job:
    """What to train, on which data, and where the results go. The settings are a `TrainConfig`."""

    concept: str
    data: str  # URI of a clip set
    run_dir: str  # folder or URI of the run
    registry: str  # URI
    foundation: str | None = None
    address: str | None = None  # of a Ray cluster; None starts one here
    publish_as: str | None = None  # another name for the version, to compare methods on the same clips

    @property
    def name(self) -> str:
        """The concept that the version is published under."""
        return self.publish_as or self.concept


class Watcher:
    """Progress callbacks of a job. These do nothing; the command line overrides them."""

    def stage(self, text: str) -> None:
        """The next part of the job begins."""

    def passed(self, text: str, seconds: float) -> None:
        """A part is done."""

    def note(self, text: str) -> None:
        """A remark, such as a part of a clip or of a caption that is not used."""

    def prepared(self, done: int, total: int) -> None:
        """The latents of `done` of `total` clips are ready."""

    def started(self, step: int, steps: int, workers: int, device: str) -> None:
        """The workers start to train at `step`; called again after a worker was lost."""

    def stepped(self, report: Mapping[str, Any]) -> None:
        """A step was done (`training.loop.report.StepReport` as a mapping)."""

    def sampled(self, step: int, keys: Sequence[str]) -> None:
        """The sample videos of a step are stored in the run; the last key is their contact sheet."""


@contextmanager
def part(watcher: Watcher, text: str) -> Iterator[None]:
    """Tell the watcher that a part of the job begins and, if it succeeds, how long it took."""
    watcher.stage(text)
    began = time.monotonic()
    yield
    watcher.passed(text, time.monotonic() - began)
