"""Things of a batch that one of many processes does, once: taken by compare-and-swap, held for a time, done for good.

    turns = Turns(storage.sub("validations"), owner)
    if turns.take("orbit-1"):
        turns.done("orbit-1", {"scores": ...})

What a process held when it died is free again when its lease has run out. That a thing is done twice is possible (a
process that hangs longer than its lease), so it must be something that may be. A lease that reaches too far is of a clock
that was ahead, and is shortened by who meets it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from infra.storage import ObjectNotFound, Storage
from infra.stored import parse_object

LEASE_S = 60.0
SWAPS = 10  # tries to change what is this holder's


@dataclass(frozen=True)
class Told:
    """What is written of a thing that somebody took."""

    owner: str
    token: str
    expires: float  # UTC seconds
    result: dict[str, Any] | None  # what `done` was given
    seconds: float = LEASE_S  # that it holds from when it was taken or renewed

    def is_ahead(self, now: float) -> bool:
        """Whether it was taken by a clock that was ahead (`training.batch.record.Lease.is_ahead`)."""
        return self.expires > now + 2 * self.seconds


def encoded(told: Told) -> bytes:
    return json.dumps(asdict(told), sort_keys=True).encode()


class Turns:
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

    def take(self, name: str) -> bool:
        """Hold this thing, unless it is done or another holds it."""
        key, body = f"{name}.json", self._body()
        if self.storage.put_if_absent(key, body):
            return True
        info, told = self.storage.head(key), self.look(name)
        if info is None or told is None:
            return False  # given back this moment
        if told.token == self.token and told.result is None:
            return True  # an own write whose answer was lost
        if told.result is not None:
            return False
        if told.is_ahead(self.clock()):  # whoever lives can renew it
            shorter = replace(told, expires=self.clock() + told.seconds)
            self.storage.replace_if(key, encoded(shorter), info.etag)
            return False
        if told.expires > self.clock():
            return False
        return self.storage.replace_if(key, body, info.etag) or self._mine(name)

    def renew(self, name: str) -> bool:
        """Hold it longer. False: another has it now."""
        return self._change(name, self._body())

    def done(self, name: str, result: Mapping[str, Any]) -> bool:
        """It is done, with this result. False: another has it now, and will say."""
        return self._change(name, self._body(result))

    def give_back(self, name: str) -> None:
        """Let others have it."""
        if self._mine(name):
            self.storage.delete(f"{name}.json")

    def look(self, name: str) -> Told | None:
        """Who has it, or its result; None: nobody took it. Raises DamagedData for what is neither."""
        key = f"{name}.json"
        try:
            body = self.storage.get(key)
        except ObjectNotFound:
            return None
        return parse_object(
            Told, body, f"{key} of {self.storage.uri}", "delete it: what it tells is done again"
        )

    def results(self, names: set[str]) -> dict[str, dict[str, Any]]:
        """What is done of these, by name; one listing, and one read for each that is there."""
        there = {info.key.removesuffix(".json") for info in self.storage.list()}
        told = {name: self.look(name) for name in sorted(names & there)}
        return {name: one.result for name, one in told.items() if one and one.result is not None}

    def _body(self, result: Mapping[str, Any] | None = None) -> bytes:
        expires = self.clock() + self.lease_s
        return encoded(
            Told(self.owner, self.token, expires, dict(result) if result is not None else None, self.lease_s)
        )

    def _mine(self, name: str) -> bool:
        told = self.look(name)
        return told is not None and told.token == self.token and told.result is None

    def _change(self, name: str, body: bytes) -> bool:
        key = f"{name}.json"
        for _ in range(SWAPS):  # others may shorten it meanwhile
            info = self.storage.head(key)  # before the content, so that a change in between fails the swap
            if info is None or not self._mine(name):
                return False
            if self.storage.replace_if(key, body, info.etag) or self.storage.get(key) == body:
                return True
        return False
