"""Faults of the registry's or the results' storage are the server's own: callers hear that it is away, the log why."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from infra.errors import UserError

log = logging.getLogger(__name__)
# What no request can be the cause of: credentials, buckets, paths and disks are the server's. With them S3's (s3_...),
# but not what is asked for and is not there (not_found).
OURS = {"access_denied", "bucket_not_found", "disk_full", "invalid_path"}


class StorageFault(UserError):
    """A storage of the server's cannot be used now (503). Says nothing of where it is or what it answered.

    Args:
        what: which one, as callers may know it.
        full: it takes no more until somebody makes room.
    """

    def __init__(self, what: str, *, full: bool = False) -> None:
        why = "is full" if full else "cannot be used now"
        super().__init__(
            f"{what} {why}, and the server's log says more; try again later.",
            status=503,
            code="storage_unavailable",
        )
        self.full = full


@contextlib.contextmanager
def storage_faults(what: str) -> Iterator[None]:
    """Turn what a storage refuses, or that it is away, into `StorageFault`, logged; other errors pass."""
    try:
        yield
    except UserError as error:
        ours = error.status == 503 or error.code.startswith("s3_") or error.code in OURS
        if not ours or isinstance(error, StorageFault):
            raise
        log.error("%s: %s", what, error.message)
        raise StorageFault(what, full=error.code == "disk_full") from error
