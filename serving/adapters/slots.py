"""The last tier: the adapters in the slots of the bank.

A slot counts its users from admission to finish. Used or pinned adapters are never evicted. Of the
others, those that no queued request needs go first, by least recent use. `warm` fills a slot in parallel
to the running batch, which does not read that slot. `acquire` runs between two steps and copies adapters
that are still missing (one copy per adapter).
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from models.lora.bank import AdapterBank
from models.lora.routing import LoraPath
from serving.schemas import AdapterUsed

Key = tuple[LoraPath, str]  # (path, sha256): one adapter


def key_of(use: AdapterUsed) -> Key:
    return (use.path, use.sha256)


@dataclass
class _Slot:
    number: int
    loaded: Future[Any] = field(default_factory=Future)  # its result after the copy: a CUDA event or None
    users: int = 0


class SlotWriter:
    """Copies packed images into slots; on a GPU on a separate stream, in parallel to the forwards."""

    def __init__(self, bank: AdapterBank) -> None:
        self._bank = bank
        device = next((buffer.device for buffer in bank.buffers()), torch.device("cpu"))
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def mark(self) -> Any:
        """An event in the forwards' stream: work queued before it may still read the slots."""
        return torch.cuda.current_stream(self._stream.device).record_event() if self._stream else None

    def write(self, key: Key, number: int, image: Tensor, after: Any) -> Any:
        """Copy an image; on a GPU after the event `after`. Returns the event of the copy's end."""
        if self._stream is None:
            self._bank.load(key[0], number, image)
            return None
        with torch.cuda.stream(self._stream):
            if after is not None:
                self._stream.wait_event(after)
            self._bank.load(key[0], number, image)
            return self._stream.record_event()

    def wait_for(self, done: Any) -> None:
        """Make forwards queued from here on wait for the end of a copy, as `write` returned it."""
        if done is not None and self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_event(done)


class Lease:
    """The slots of one request, in the order of its adapters, held until `release`."""

    def __init__(self, table: SlotTable, keys: Sequence[Key], slots: Sequence[int]) -> None:
        self._table, self._keys, self.slots = table, keys, slots

    def release(self) -> None:
        """Release the slots; their adapters stay until other adapters need the space."""
        self._table._release(self._keys)
        self._keys = ()


class SlotTable:
    """Adapters in the slots of a bank. Thread-safe, except `acquire` and `Lease.release`: engine thread only.

    Args:
        copied: called with the seconds of each copy into a slot, from the thread that made it.
    """

    def __init__(self, bank: AdapterBank, copied: Callable[[float], None] = lambda seconds: None) -> None:
        self._bank, self._writer, self._copied = bank, SlotWriter(bank), copied
        self._free: dict[LoraPath, list[int]] = {
            path: list(range(n, 0, -1)) for path, n in bank.slots.items()
        }
        self._slots: OrderedDict[Key, _Slot] = OrderedDict()  # oldest use first
        self._wanted: Counter[Key] = Counter()  # number of queued requests that need it
        self._pinned: set[Key] = set()
        self._last_reads: dict[tuple[LoraPath, int], Any] = {}  # events: until them, forwards may read a slot
        self._lock = threading.Lock()
        self.hits = self.misses = 0  # adapters that `acquire` found in slots, and those it copied
        self.loads = 0  # copies into slots, also by `warm`

    def resident(self) -> Mapping[Key, int]:
        """(path, sha256) -> number of users, for every adapter in a slot."""
        with self._lock:
            return {key: slot.users for key, slot in self._slots.items()}

    def pinned(self) -> frozenset[Key]:
        """The pinned adapters."""
        with self._lock:
            return frozenset(self._pinned)

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Those of these adapters that are in no slot."""
        with self._lock:
            return [key for key in dict.fromkeys(keys) if key not in self._slots]

    def want(self, keys: Iterable[Key], by: int = 1) -> None:
        """Add (or with -1 remove) a queued request that needs these adapters."""
        with self._lock:
            for key in set(keys):
                self._wanted[key] += by
                if self._wanted[key] <= 0:
                    del self._wanted[key]

    def set_pinned(self, keys: Sequence[Key]) -> frozenset[Key]:
        """Pin exactly these adapters: once loaded, they are never evicted.

        One slot of each path stays for others. Returns the pinned ones: of each path the first that fit.
        """
        pinned: set[Key] = set()
        for key in keys:
            if sum(1 for path, _ in pinned - {key} if path == key[0]) + 1 < self._bank.slots[key[0]]:
                pinned.add(key)
        with self._lock:
            self._pinned = pinned
        return frozenset(pinned)

    def can_hold(self, keys: Iterable[Key]) -> bool:
        """Whether these can all be in slots beside the pinned adapters that are in slots now."""
        with self._lock:
            for path, slots in self._bank.slots.items():
                mine = {key for key in keys if key[0] == path}
                if len(mine | {key for key in self._pinned if key[0] == path and key in self._slots}) > slots:
                    return False
        return True

    def victims(self, keys: Iterable[Key]) -> set[Key]:
        """The adapters to drain so that a request with these can be admitted: those with the fewest users."""
        wanted, chosen = set(keys), set()
        with self._lock:
            for path, free in self._free.items():
                need = sum(1 for key in wanted if key[0] == path and key not in self._slots) - len(free)
                others = [
                    (slot.users, key)
                    for key, slot in self._slots.items()
                    if key[0] == path and key not in wanted and key not in self._pinned
                ]
                chosen |= {key for _, key in sorted(others)[: max(0, need)]}
        return chosen

    def acquire(self, uses: Sequence[AdapterUsed], images: Mapping[Key, Tensor]) -> Lease | None:
        """Slots for all adapters of a request; None, without any change, if too few are free.

        Args:
            images: of at least the adapters that are in no slot. Raises KeyError for a missing one.
        """
        keys = [key_of(use) for use in uses]
        with self._lock:
            needed = {key: images[key] for key in dict.fromkeys(keys) if key not in self._slots}
            for path, free in self._free.items():
                idle = sum(1 for key in self._idle(path) if key not in keys)
                if sum(key[0] == path for key in needed) > len(free) + idle:
                    return None
            for key in keys:
                if key in self._slots:
                    self._slots.move_to_end(key)
                    self._slots[key].users += 1
            for key in needed:
                self._slots[key] = self._take(key[0], keys)
                self._slots[key].users = keys.count(key)
            self.hits += len(set(keys)) - len(needed)
            self.misses += len(needed)
            slots = {key: self._slots[key] for key in keys}
        try:
            for key, image in needed.items():
                self._copy(key, slots[key], image)
            for slot in slots.values():  # waits for a copy that `warm` is making
                self._writer.wait_for(slot.loaded.result())
        except BaseException:
            self._release([key for key in keys if key in self._slots])
            raise
        return Lease(self, keys, [slots[key].number for key in keys])

    def warm(self, key: Key, image: Tensor) -> bool:
        """Copy an adapter into a free slot, or that of an adapter that is idle, unneeded and not pinned.

        True if the adapter is in a slot then. Unneeded: no queued request needs it.
        """
        with self._lock:
            if key in self._slots:
                return True
            if not self._free[key[0]] and not any(not self._wanted[k] for k in self._idle(key[0])):
                return False
            slot = self._slots[key] = self._take(key[0], ())
        self._copy(key, slot, image)
        return True

    def has_spare(self, keys: Iterable[Key]) -> bool:
        """Whether `warm` would find a slot for one of these."""
        with self._lock:
            return any(
                self._free[path] or any(not self._wanted[key] for key in self._idle(path))
                for path in {path for path, _ in keys}
            )

    def forget(self, key: Key) -> bool:
        """Overwrite an adapter's slot with zeros and free it. False, without any change, while it is used."""
        with self._lock:
            slot = self._slots.get(key)
            if slot is None:
                return True
            if slot.users or not slot.loaded.done():
                return False
            self._pinned.discard(key)
            del self._slots[key]
        after = self._last_reads.pop((key[0], slot.number), None)
        self._writer.write(key, slot.number, self._bank.pack(key[0], {}), after)
        with self._lock:
            self._free[key[0]].append(slot.number)
        return True

    def _copy(self, key: Key, slot: _Slot, image: Tensor) -> None:
        after, started = self._last_reads.pop((key[0], slot.number), None), time.monotonic()
        try:
            done = self._writer.write(key, slot.number, image, after)
        except BaseException as error:
            with self._lock:
                del self._slots[key]
                self._free[key[0]].append(slot.number)
            slot.loaded.set_exception(error)
            raise
        slot.loaded.set_result(done)
        with self._lock:
            self.loads += 1
        self._copied(time.monotonic() - started)

    def _idle(self, path: LoraPath) -> list[Key]:
        """The adapters that may be evicted, least recently used first."""
        return [
            key
            for key, slot in self._slots.items()
            if key[0] == path and not slot.users and slot.loaded.done() and key not in self._pinned
        ]

    def _take(self, path: LoraPath, keep: Sequence[Key]) -> _Slot:
        if self._free[path]:
            return _Slot(self._free[path].pop())
        idle = [key for key in self._idle(path) if key not in keep]
        victim = next((key for key in idle if not self._wanted[key]), idle[0])
        return _Slot(self._slots.pop(victim).number)

    def _release(self, keys: Sequence[Key]) -> None:
        point = self._writer.mark() if keys else None
        with self._lock:
            for key in keys:
                slot = self._slots[key]
                slot.users -= 1
                assert slot.users >= 0, key
                self._last_reads[key[0], slot.number] = point
