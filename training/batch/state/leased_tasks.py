"""Things of a batch that one of many processes does, once: taken by compare-and-swap, held for a time, done for good.

    turns = LeasedTasks(storage.sub("validations"), owner)
    if turns.take("orbit-1"):
        turns.done("orbit-1", {"scores": ...})

What a process held when it died is free again when its lease has run out (infra/storage/leases.py). That a thing is done twice is
possible (a process that hangs longer than its lease), so it must be something that may be.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.storage import Storage
from infra.storage.leases import LEASE_S, Lease, Objects
from infra.storage.stored import parse


@dataclass(frozen=True)
class Told(Lease):
    """What is written of a thing that somebody took."""

    result: dict[str, Any] | None = field(kw_only=True)  # what `done` was given


class LeasedTasks:
    """One object a thing: who has it and until when, or its result.

    Args:
        owner: for people.
        lease_s: how long a turn holds unless renewed.
        clock: UTC seconds.
        token: tells this holder from others; a fresh one when not given.
    """

    def __init__(
        self,
        storage: Storage,
        owner: str,
        *,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = time.time,
        token: str | None = None,
    ) -> None:
        self.storage, self.owner, self.lease_s, self.clock = storage, owner, lease_s, clock
        self.token = token or uuid.uuid4().hex
        remedy = "delete it: what it tells is done again"
        self._objects = Objects(storage, "", lambda body, _: parse(Told, body), remedy)

    def take(self, name: str) -> bool:
        """Hold this thing, unless it is done or another holds it."""

        def step(told: Told | None) -> Told | None:
            now = self.clock()
            if told is None or self._is_mine(told) or (told.result is None and told.is_over(now)):
                return self._told()
            return told.renewed(now) if told.result is None and told.is_ahead(now) else None

        return self._is_mine(self._objects.change(name, step))

    def renew(self, name: str) -> bool:
        """Hold it longer. False: another has it now."""
        return self._change(name, None)

    def done(self, name: str, result: Mapping[str, Any]) -> bool:
        """It is done, with this result. False: another has it now, and will say."""
        return self._change(name, dict(result))

    def give_back(self, name: str) -> None:
        """Let others have it."""
        if self._is_mine(self.look(name)):
            self.storage.delete(f"{name}.json")

    def look(self, name: str) -> Told | None:
        """Who has it, or its result; None: nobody took it. Raises DamagedData for what is neither."""
        return self._objects.get(name)

    def results(self, names: set[str]) -> dict[str, dict[str, Any]]:
        """What is done of these, by name; one listing, and one read for each that is there."""
        there = {info.key.removesuffix(".json") for info in self.storage.list()}
        told = {name: self.look(name) for name in sorted(names & there)}
        return {name: one.result for name, one in told.items() if one and one.result is not None}

    def _change(self, name: str, result: dict[str, Any] | None) -> bool:
        """Write this of what is held. False: it is not held."""
        change = self._objects.change
        return change(name, lambda told: self._told(result) if self._is_mine(told) else None) is not None

    def _told(self, result: dict[str, Any] | None = None) -> Told:
        return Told(self.owner, self.token, self.clock() + self.lease_s, self.lease_s, result=result)

    def _is_mine(self, told: Told | None) -> bool:
        return told is not None and told.token == self.token and told.result is None
