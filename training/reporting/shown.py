"""Keeps errors of display work (screen, samples, TensorBoard) from stopping a training or publication."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from infra.ray.cluster import last_line

log = logging.getLogger(__name__)


@contextmanager
def harmless(lost: str) -> Iterator[None]:
    """Log any exception of the block in one line, and end the block.

    Args:
        lost: what is missing because of it, such as "no samples of step 40".
    """
    try:
        yield
    except Exception as error:
        log.warning("%s: %s", lost, last_line(error))
