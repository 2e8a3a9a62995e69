"""The third tier: adapters packed in the slot's format, in host memory of limited size.

Held adapters stay; others are evicted by least recent use. A hold reserves space before anything is
read, for all adapters of a request or for none, so that two requests never deadlock with half each.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping

from torch import Tensor

from serving.adapters.slots import Key


class HostCache:
    """Packed images by (path, hash). Thread-safe.

    Args:
        capacity: maximum bytes of images, including reserved space.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._images: OrderedDict[Key, Tensor] = OrderedDict()  # least recently used first
        self._holds: Counter[Key] = Counter()
        self._promised: dict[Key, int] = {}  # bytes reserved for held images that are not loaded yet
        self._lock = threading.Lock()

    def get(self, key: Key) -> Tensor | None:
        """The image, or None."""
        with self._lock:
            image = self._images.get(key)
            if image is not None:
                self._images.move_to_end(key)
            return image

    def resident(self) -> dict[Key, int]:
        """(path, sha256) -> number of holds, for every loaded image."""
        with self._lock:
            return {key: self._holds[key] for key in self._images}

    def hold(self, sizes: Mapping[Key, int]) -> bool:
        """Hold these images until `release`, and reserve space for those not loaded yet.

        False, without any change, if there is too little space.

        Args:
            sizes: the bytes of each image.
        """
        with self._lock:
            new = {key: size for key, size in sizes.items() if key not in self._images | self._promised}
            if not self._make_room(sum(new.values()), keep=sizes):
                return False
            self._promised.update(new)
            self._holds.update(sizes.keys())
            return True

    def put(self, key: Key, image: Tensor) -> None:
        """Add an image. One that nobody holds (any more) is kept only if there is space."""
        with self._lock:
            self._promised.pop(key, None)
            if key not in self._images and self._make_room(image.nbytes, keep=()):
                self._images[key] = image

    def release(self, keys: Iterable[Key]) -> None:
        """Undo one `hold` of each image."""
        with self._lock:
            for key in keys:
                self._holds[key] -= 1
                assert self._holds[key] >= 0, key
                if not self._holds[key]:
                    del self._holds[key]
                    self._promised.pop(key, None)

    def forget(self, key: Key) -> bool:
        """Remove an image. False, without any change, while it is held."""
        with self._lock:
            if self._holds[key] or key in self._promised:
                return False
            self._images.pop(key, None)
            return True

    @property
    def used(self) -> int:
        """Bytes loaded and reserved."""
        with self._lock:
            return self._used()

    def _used(self) -> int:
        return sum(image.nbytes for image in self._images.values()) + sum(self._promised.values())

    def _make_room(self, size: int, keep: Iterable[Key]) -> bool:
        kept = set(keep)
        idle = [key for key in self._images if not self._holds[key] and key not in kept]
        free = self.capacity - self._used()
        if size > free + sum(self._images[key].nbytes for key in idle):
            return False
        for key in idle:
            if size <= free:
                break
            free += self._images.pop(key).nbytes
        return True
