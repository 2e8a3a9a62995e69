"""What a server needs of whatever learns concepts. The front door implements it (`motiondirector.service`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from infra.storage import Storage

TrainerState = Literal["queued", "running", "paused", "published", "failed", "cancelled"]


@dataclass(frozen=True)
class Clips:
    """One local file to learn from: a video, a zip of videos, or (of an order of an image) an image.

    Args:
        name: how errors call it: its name, and the row that gave it.
        start: second of the video at which the clip begins; None: at its beginning.
    """

    path: Path
    name: str
    caption: str | None = None
    start: float | None = None


@dataclass(frozen=True)
class Order:
    """A concept to learn.

    Args:
        id: of the training.
        concept: its name in the registry.
        foundation: fingerprint of the model.
        caption: of clips that have none.
        image: its file is a still image, whose appearance is learned.
    """

    id: str
    concept: str
    foundation: str
    method: str
    settings: Mapping[str, Any]
    seed: int
    caption: str | None = None
    image: bool = False


@dataclass(frozen=True)
class Prepared:
    """An order whose clips are ready.

    Args:
        work: all that the trainer needs, as JSON.
        warnings: what is not learned, or was changed.
    """

    work: dict[str, Any]
    steps: int
    clips: int
    warnings: Sequence[str] = field(default=())


@dataclass(frozen=True)
class Standing:
    """Where a training stands.

    Args:
        state: `paused` as soon as it was told to.
        version: the published one (concept@number).
        reason: why it failed.
        own: False if an earlier training, of the same clips with the same settings, published the version.
    """

    state: TrainerState
    step: int = 0
    loss: float | None = None
    step_seconds: float | None = None
    version: str | None = None
    reason: str | None = None
    own: bool = True


class Trainer(Protocol):
    """Thread-safe. Methods block, and raise UserError."""

    def check(self, order: Order) -> None:
        """Raise InvalidInput unless an order's method and settings are possible. Reads no file of a tenant."""

    def prepare(
        self, order: Order, clips: Sequence[Clips], folder: Path, target: Storage, beat: Callable[[], None]
    ) -> Prepared:
        """Make clips of the files, in `target`. May take minutes.

        Args:
            folder: an empty local folder to work in.
            target: an empty storage, which lanes reach.
            beat: called every second or so; what it raises ends the work.

        Raises:
            InvalidInput: names the file and what is wrong with it.
        """

    def enter(self, work: Mapping[str, Any], priority: int) -> None:
        """Let a prepared work be trained; again without effect. Work of a higher priority begins earlier."""

    def standings(self, works: Collection[Mapping[str, Any]]) -> list[Standing | None]:
        """Where each work stands, in order; None if it was not entered."""

    def cancel(self, work: Mapping[str, Any]) -> None:
        """Stop a work. It ends soon, unless it has ended."""

    def pause(self, work: Mapping[str, Any]) -> None:
        """Let a work rest, at its next checkpoint, until `resume`. No effect if it has ended."""

    def resume(self, work: Mapping[str, Any]) -> None:
        """Let a paused work go on from its checkpoint, when it is its turn. No effect if it has ended."""

    def withdraw(self, version: str) -> None:
        """Take back a version that was published although its training was cancelled."""

    def forget(self, prefix: str) -> None:
        """Remove all that is kept of ended works whose concepts' names begin so."""
