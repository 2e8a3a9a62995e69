"""Waits for a storage that is unavailable for a while, and logs it.

The retries of the S3 client (infra/storage/s3.py) bridge seconds; this bridges minutes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from infra.errors import Unavailable

log = logging.getLogger(__name__)
PATIENCE_S = 900.0


class Outage:
    """Tracks how long a storage has been unavailable.

    Args:
        patience_s: longest outage to wait for.
        clock: seconds of a monotonic clock.
    """

    def __init__(self, patience_s: float = PATIENCE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.patience_s, self._clock = patience_s, clock
        self._since: float | None = None

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Wraps one round of a loop: Unavailable ends the round instead of being raised.

        In a round that may last for hours, call `answered` whenever the storage works.

        Raises:
            Unavailable: the outage has lasted longer than `patience_s`.
        """
        try:
            yield
        except Unavailable as error:
            now = self._clock()
            if self._since is not None and now - self._since > self.patience_s:
                raise
            if self._since is None:
                self._since = now
                log.warning("%s Waiting for at most %d minutes.", error.message, self.patience_s // 60)
        else:
            self.answered()

    def answered(self) -> None:
        """The storage works now: a later failure is a new outage with the full patience."""
        if self._since is not None:
            log.warning("the storage is available again after %.0f s", self._clock() - self._since)
        self._since = None
