"""Leases: who holds something and until when, stored in objects that processes change by compare-and-swap.

A holder writes its token and an expiry time into the object, and renews the time while it works. Any process
may take an expired lease. The former holder notices at its next write that its token is gone, and stops.
Times are those of the machines' clocks (UTC seconds), whose differences must be much shorter than a lease.
A lease that expires too late was given by a clock that was ahead and has since been corrected. Whoever finds
it shortens it to a full lease, so that its holder, if alive, can renew it.

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
SWAPS = 100  # attempts while other processes change the same object


class LeaseLost(Exception):
    """The lease is another holder's, or its work has ended. The result of this holder's work is discarded."""


def latest_expiry(now: Any, seconds: float) -> Any:
    """The latest plausible expiry of a lease of this many seconds; a later one comes from a clock that was ahead.

    Times are numbers or SQL expressions.
    """
    return now + 2 * seconds


@dataclass(frozen=True)
class Lease:
    """Who holds something, and until when."""

    owner: str  # for people
    token: str  # identifies the holder
    expires: float  # UTC seconds
    seconds: float = LEASE_S  # its length from when it was given or renewed

    def is_over(self, now: float) -> bool:
        """Whether it has expired by `now` (UTC seconds)."""
        return self.expires <= now

    def is_ahead(self, now: float) -> bool:
        """Whether it was given by a clock that was ahead."""
        return self.expires > latest_expiry(now, self.seconds)

    def renewed(self, now: float, seconds: float | None = None) -> Self:
        """The lease renewed at `now`, for as long as before or for `seconds`."""
        seconds = self.seconds if seconds is None else seconds
        return replace(self, expires=now + seconds, seconds=seconds)


@dataclass(frozen=True)
class Objects(Generic[T]):
    """Dataclasses of one type, stored as JSON by name, each changed by compare-and-swap.

    Args:
        folder: prefix of their keys, with a trailing slash; "" for none.
        decode: makes an object from (bytes, name); raises Damaged.
        remedy: what to do about a damaged object, for the error.
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
        """Replace an object by `step(object)`, repeated until no other process writes in between.

        This process recognizes its own write by the content, so the contents of two writers must differ, such
        as by a token or a time.

        Args:
            step: gets the object, or None if it does not exist; returns None to write nothing.

        Returns what was written, or None. Raises Unavailable if other processes keep changing the object.
        """
        key = self._key(name)
        for _ in range(SWAPS):
            info = self.storage.head(key)  # before reading: a change in between makes the swap fail
            after = step(None if info is None else self.get(name))
            if after is None:
                return None
            body = json.dumps(asdict(cast(Any, after)), sort_keys=True).encode()
            if self.storage.replace_if(key, body, None if info is None else info.etag):
                return after
            with suppress(ObjectNotFound):
                if self.storage.get(key) == body:  # our write succeeded, but its answer was lost
                    return after
        raise Unavailable(
            f"other processes keep changing {key} of {self.storage.uri}; try again.", code="busy"
        )

    def _key(self, name: str) -> str:
        return f"{self.folder}{name}.json"
