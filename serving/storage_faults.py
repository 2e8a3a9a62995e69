"""Faults of the registry's or the results' storage are the server's own: callers hear that it is away, the log why."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from infra.errors import StorageError, StorageFull, Unavailable

log = logging.getLogger(__name__)


class StorageFault(Unavailable):
    """A storage of the server's cannot be used now. Says nothing of where it is or what it answered.

    Args:
        what: which one, as callers may know it.
        full: it takes no more until somebody makes room.
    """

    default_code = "storage_unavailable"

    def __init__(self, what: str, *, full: bool = False) -> None:
        why = "is full" if full else "cannot be used now"
        super().__init__(f"{what} {why}, and the server's log says more; try again later.")
        self.full = full


@contextlib.contextmanager
def storage_faults(what: str) -> Iterator[None]:
    """Turn what a storage refuses, or that it is away, into `StorageFault`, logged; other errors pass."""
    try:
        yield
    except StorageFault:
        raise
    except (StorageError, Unavailable) as error:  # what no request can be the cause of
        log.error("%s: %s", what, error.message)
        raise StorageFault(what, full=isinstance(error, StorageFull)) from error
