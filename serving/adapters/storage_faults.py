"""Storage errors of the server: callers learn only that a storage is unavailable; the log has the reason."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from infra.errors import StorageError, StorageFull, Unavailable

log = logging.getLogger(__name__)


class StorageFault(Unavailable):
    """A storage of the server cannot be used now. Does not reveal its location or answer.

    Args:
        what: its name for callers.
        full: it has no space until someone frees some.
    """

    default_code = "storage_unavailable"

    def __init__(self, what: str, *, full: bool = False) -> None:
        why = "is full" if full else "cannot be used now"
        super().__init__(f"{what} {why}, and the server's log says more; try again later.")
        self.full = full


@contextlib.contextmanager
def storage_faults(what: str) -> Iterator[None]:
    """Log errors of a storage and turn them into `StorageFault`; other errors pass."""
    try:
        yield
    except StorageFault:
        raise
    except (StorageError, Unavailable) as error:  # errors that no request can cause
        log.error("%s: %s", what, error.message)
        raise StorageFault(what, full=isinstance(error, StorageFull)) from error
