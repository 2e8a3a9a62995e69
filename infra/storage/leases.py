"""Leases: who has something and until when, kept in objects that many processes change by compare-and-swap.

A holder writes its token and a time into the object, and renews the time as it goes on. A lease that ran out may be taken
by any other; whoever had it before finds its token gone at its next write, and lets go. Times are those of the machines'
clocks (UTC seconds), which must agree to well within a lease. A lease that reaches too far was given by a clock that was
ahead and has been corrected since: whoever meets it shortens it to a whole lease, so that a holder that lives can renew it.

Dispatchers hold jobs in the same way, by the database's clock and in SQL (`serving/jobs/claims.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, Self, TypeVar, cast

from infra.errors import Unavailable
from infra.storage import ObjectNotFound, Storage
from infra.storage.stored import Damaged, damaged

T = TypeVar("T")
LEASE_S = 60.0
SWAPS = 100  # tries against others who change the same object


class LeaseLost(Exception):
    """It is no longer this holder's: another has it, or it ended. What was computed does not count."""


def farthest(now: Any, seconds: float) -> Any:
    """A lease of so many seconds that ends after this was given by a clock that was ahead. Times are numbers or SQL."""
    return now + 2 * seconds


@dataclass(frozen=True)
class Lease:
    """Who has something, and until when."""

    owner: str  # for people
    token: str  # tells this holder from others
    expires: float  # UTC seconds
    seconds: float = LEASE_S  # that it holds from when it was given

    def is_over(self, now: float) -> bool:
        """Whether it ran out by `now` (UTC seconds)."""
        return self.expires <= now

    def is_ahead(self, now: float) -> bool:
        """Whether it was given by a clock that was ahead."""
        return self.expires > farthest(now, self.seconds)

    def renewed(self, now: float, seconds: float | None = None) -> Self:
        """Given anew, for as long as before or for so many seconds."""
        seconds = self.seconds if seconds is None else seconds
        return replace(self, expires=now + seconds, seconds=seconds)


@dataclass(frozen=True)
class Objects(Generic[T]):
    """Dataclasses of one kind as JSON, by name, each changed by compare-and-swap.

    Args:
        folder: of their keys, with a slash at its end; "" for none.
        decode: makes one of (bytes, name); raises Damaged.
        remedy: what to do about one that is damaged.
    """

    storage: Storage
    folder: str
    decode: Callable[[bytes, str], T]
    remedy: str

    def get(self, name: str) -> T | None:
        """The object, or None. Raises DamagedData."""
        try:
            return self.decode(self.storage.get(self._key(name)), name)
        except ObjectNotFound:
            return None
        except Damaged as error:
            raise damaged(f"{self._key(name)} of {self.storage.uri}", error, self.remedy) from None

    def change(self, name: str, step: Callable[[T | None], T | None]) -> T | None:
        """Write what `step` makes of the object (None: there is none), again until no other writes in between.

        An own write is known by its content, so two writers' must differ: by a token, or a time.

        Returns what was written; None when `step` has nothing to write. Raises Unavailable.
        """
        key = self._key(name)
        for _ in range(SWAPS):
            info = self.storage.head(key)  # before the content: a change in between fails the swap
            after = step(None if info is None else self.get(name))
            if after is None:
                return None
            body = json.dumps(asdict(cast(Any, after)), sort_keys=True).encode()
            if self.storage.replace_if(key, body, None if info is None else info.etag):
                return after
            with suppress(ObjectNotFound):
                if self.storage.get(key) == body:  # an own write whose answer was lost
                    return after
        raise Unavailable(
            f"{key} of {self.storage.uri} is changed by others without end; try again.", code="busy"
        )

    def _key(self, name: str) -> str:
        return f"{self.folder}{name}.json"
