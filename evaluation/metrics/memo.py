"""Caches measurements of a video, so that several metrics can share them.

Tracking, flow and embeddings take tens of milliseconds to seconds per video. A memo identifies a video by its
content and keeps the latest `size` results, never the frames.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")


def content_key(video_FHWC: np.ndarray) -> str:
    """A hash of the frames and their shape."""
    digest = hashlib.blake2b(repr((video_FHWC.shape, video_FHWC.dtype.str)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(video_FHWC).data)
    return digest.hexdigest()


class Memo(Generic[T]):
    """Caches `measure(video, *more)` by the video's content and `more` (hashable); at most `size` results."""

    def __init__(self, measure: Callable[..., T], size: int = 512) -> None:
        self.measure = measure
        self.size = size
        self._known: OrderedDict[tuple, T] = OrderedDict()
        self._lock = Lock()

    def __call__(self, video_FHWC: np.ndarray, *more) -> T:
        key = (content_key(video_FHWC), *more)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        found = self.measure(video_FHWC, *more)
        with self._lock:
            self._known[key] = found
            while len(self._known) > self.size:
                self._known.popitem(last=False)
        return found
