"""Runs the demo's trainings as commands that a user would type, in parallel on the available cores."""

from __future__ import annotations

import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.errors import UserError


@dataclass
class Training:
    """One training."""

    name: str  # the concept that it publishes
    arguments: tuple[str, ...]  # of `motiondirector`
    log: Path | None = None  # file for its output; None: the terminal
    began: datetime | None = None
    child: subprocess.Popen[Any] | None = field(default=None, repr=False)


class Trainings:
    """Runs trainings in order. A context manager: running trainings are ended with the block.

    Args:
        trainings: in the order in which they begin.
        start: starts a command in the background, with output to a file or the terminal (`Stage.beside`).
        room: how many run at once.
    """

    def __init__(
        self,
        trainings: Sequence[Training],
        start: Callable[..., AbstractContextManager[subprocess.Popen[Any]]],
        room: int,
    ) -> None:
        self.all = {one.name: one for one in trainings}
        self._waiting = deque(trainings)
        self._start, self._room = start, room
        self._stack = ExitStack()

    def __enter__(self) -> Trainings:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._stack.__exit__(*exc)

    def begin(self, most: int | None = None) -> None:
        """Begin as many trainings as there is room for; at most `most` run at once."""
        room = self._room if most is None else min(self._room, most)
        while self._waiting and sum(self._runs(one) for one in self.all.values()) < room:
            one = self._waiting.popleft()
            one.began = datetime.now(UTC)
            one.child = self._stack.enter_context(self._start(one.log, *one.arguments))

    def ended(self, name: str) -> bool:
        """Whether a training has published. Raises UserError if any failed: the demo needs all of them."""
        for one in self.all.values():
            if one.child is not None and one.child.poll():
                reason = (
                    f"the end of {one.log}:\n{one.log.read_text()[-2000:]}"
                    if one.log
                    else "the reason is above."
                )
                raise UserError(
                    f"the training of {one.name} ended with code {one.child.returncode}; {reason}"
                )
        child = self.all[name].child
        return child is not None and child.returncode == 0

    def seconds(self, name: str, until: datetime) -> float:
        """Seconds from the start of a training until this time."""
        began = self.all[name].began
        assert began is not None
        return round((until - began).total_seconds(), 2)

    @staticmethod
    def _runs(one: Training) -> bool:
        return one.child is not None and one.child.poll() is None
