"""What is only looked at: losses on the screen, samples, TensorBoard. It must not end a training, nor keep it unpublished."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from infra.cluster import short

log = logging.getLogger(__name__)


@contextmanager
def harmless(lost: str) -> Iterator[None]:
    """Whatever fails within the block is one line in the log, and the block's end.

    Args:
        lost: what there is not because of it: "no samples of step 40".
    """
    try:
        yield
    except Exception as error:
        log.warning("%s: %s", lost, short(error))
