"""A storage that is away for a while: whoever watches or trains a batch waits for it, and says so.

S3's own retries (infra/s3.py) outlast seconds; this, what takes minutes.
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
    """How long a storage has been away.

    Args:
        patience_s: for which it is waited for at a stretch.
        clock: seconds that only grow.
    """

    def __init__(self, patience_s: float = PATIENCE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.patience_s, self._clock = patience_s, clock
        self._since: float | None = None

    @contextmanager
    def passing(self) -> Iterator[None]:
        """In a loop: a round that the storage's absence (Unavailable) cuts short is over, and that is all. In a round that
        may last for hours, tell of what the storage `answered`.

        Raises:
            Unavailable: it has been away for longer than `patience_s`.
        """
        try:
            yield
        except Unavailable as error:
            now = self._clock()
            if self._since is not None and now - self._since > self.patience_s:
                raise
            if self._since is None:
                self._since = now
                log.warning("%s Waiting for it, %d minutes at most.", error.message, self.patience_s // 60)
        else:
            self.answered()

    def answered(self) -> None:
        """The storage is there now: what it fails at later is another outage, with patience of its own."""
        if self._since is not None:
            log.warning("the storage is back after %.0f s", self._clock() - self._since)
        self._since = None
