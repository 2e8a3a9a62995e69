"""A fair queue: fair shares at every level of a tree of flows.

Nested start-time fair queueing (Goyal et al. 1996): priority classes share by weight, tenants in a class
share equally, and so do the adapters of a tenant. The shares equal those of deficit round robin, without
a quantum to choose. An idle flow gains nothing: it returns at the current virtual time.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)
Flow = Sequence[tuple[Hashable, float]]  # from the top level down: the flow's key and weight


@dataclass(order=True)
class _Entry(Generic[T]):
    order: float
    number: int
    item: T = field(compare=False)
    cost: float = field(compare=False)
    path: list[_Node[T]] = field(compare=False, repr=False)


class _Node(Generic[T]):
    """One flow. `start`: virtual time of its next service among its siblings. `now`: its children's time."""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight, self.start, self.now, self.waiting = weight, 0.0, 0.0, 0
        self.children: dict[Hashable, _Node[T]] = {}
        self.entries: list[_Entry[T]] = []

    def oldest(self) -> int:
        if self.entries:
            return self.entries[0].number
        return min(child.oldest() for child in self.children.values() if child.waiting)

    def forget(self) -> None:
        """Drop idle flows, but remember each until its siblings have caught up with its service."""
        if not self.waiting and self.children:  # the busy period is over: all flows are even
            self.now = max(child.start for child in self.children.values())
        for key in [k for k, child in self.children.items() if not child.waiting and child.start <= self.now]:
            del self.children[key]

    def find(self, eligible: Callable[[T], bool]) -> _Entry[T] | None:
        found = next((entry for entry in self.entries if eligible(entry.item)), None)
        if found is not None:
            return found
        waiting = [child for child in self.children.values() if child.waiting]
        for child in sorted(waiting, key=lambda child: (child.start, child.oldest())):
            if (found := child.find(eligible)) is not None:
                return found
        return None


class FairQueue(Generic[T]):
    """A queue of items by flow. Not thread-safe."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._entries: dict[T, _Entry[T]] = {}
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item: T) -> bool:
        return item in self._entries

    def __iter__(self) -> Iterator[T]:
        """The items in order of arrival."""
        return iter(list(self._entries))

    def add(self, item: T, flow: Flow, cost: float, order: float = 0.0) -> None:
        """Add an item to its flow.

        Args:
            cost: its share of service, in any unit common to all items.
            order: within a flow, smaller values go first; equal ones go by age.
        """
        assert item not in self._entries
        assert cost > 0
        node, path = self._root, []
        for key, weight in flow:
            child = node.children.get(key)
            if child is None:
                child = node.children[key] = _Node(weight)
            if not child.waiting:
                child.start = max(child.start, node.now)
            node = child
            path.append(node)
        for node in (self._root, *path):
            node.waiting += 1
        entry = _Entry(order, next(self._numbers), item, cost, path)
        bisect.insort(path[-1].entries, entry)
        self._entries[item] = entry

    def pick(self, eligible: Callable[[T], bool] = lambda item: True) -> T | None:
        """Remove and return the next eligible item, or None. Calls `eligible` in order of turns."""
        entry = self._root.find(eligible)
        if entry is None:
            return None
        parent = self._root
        for node in entry.path:
            parent.now = max(parent.now, node.start)
            node.start += entry.cost / node.weight
            parent = node
        self._take(entry)
        return entry.item

    def remove(self, item: T) -> bool:
        """Remove an item without service. False if it is not in the queue."""
        entry = self._entries.get(item)
        if entry is not None:
            self._take(entry)
        return entry is not None

    def _take(self, entry: _Entry[T]) -> None:
        del self._entries[entry.item]
        entry.path[-1].entries.remove(entry)
        for node in (self._root, *entry.path):
            node.waiting -= 1
        for node in (self._root, *entry.path):
            node.forget()
