"""Threads for what may take minutes, apart from the event loop's own, which are the database's.

Ray gives an ingress five threads. A registry, a results storage or a name server that hangs would soon hold them all, and
nobody's jobs were read or their leases renewed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from serving.storage_faults import storage_faults

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


class Threads:
    """So many threads for one kind of call, started when they are needed.

    Args:
        storage: what the calls use, if it is a storage of the server's: they raise `StorageFault` for it.
    """

    def __init__(self, name: str, most: int, storage: str | None = None) -> None:
        self._pool, self._storage = ThreadPoolExecutor(most, thread_name_prefix=name), storage

    async def run(
        self, call: Callable[Given, Answer], /, *args: Given.args, **kwargs: Given.kwargs
    ) -> Answer:
        """What the call answers. Cancelled, it is not begun any more; once begun it goes on to its end."""
        return await asyncio.wrap_future(self.begin(functools.partial(call, *args, **kwargs)))

    def begin(self, call: Callable[[], Answer]) -> Future[Answer]:
        """The call's future: begun at once, or when a thread is free."""
        return self._pool.submit(self._call, call)

    def _call(self, call: Callable[[], Answer]) -> Answer:
        with storage_faults(self._storage) if self._storage else contextlib.nullcontext():
            return call()


class Shares:
    """Threads that one tenant cannot hold all at once: what it asks for beyond its share waits for its own calls.

    For one event loop.

    Args:
        each: threads of one tenant, at most.
    """

    def __init__(self, threads: Threads, each: int) -> None:
        self._threads, self._each = threads, each
        self._places: dict[str, asyncio.Semaphore] = {}  # by tenant, of which there are as many as keys

    async def run(
        self, tenant: str, call: Callable[Given, Answer], /, *args: Given.args, **kwargs: Given.kwargs
    ) -> Answer:
        """What the call answers. Cancelled once begun, it goes on to its end and holds its tenant's place until then."""
        place = self._places.setdefault(tenant, asyncio.Semaphore(self._each))
        loop = asyncio.get_running_loop()

        def free(_call: Future[Answer]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(place.release)

        await place.acquire()
        begun = self._threads.begin(functools.partial(call, *args, **kwargs))
        begun.add_done_callback(free)
        return await asyncio.wrap_future(begun)


CONCEPTS, VIDEOS = "the concept registry", "the results storage"
REGISTRY = Threads("registry", 8, CONCEPTS)  # what a request names
LISTS = Threads(
    "lists", 2, CONCEPTS
)  # all that the registry has, which is many reads: requests need not wait for those
ROOM = Threads("room", 1)
RESULTS = Threads("results", 8, VIDEOS)
READS_EACH, LISTS_EACH = 2, 1  # of these, a tenant's at once
NAMES = Threads("names", 16)  # those of webhooks that requests name
CALLED_NAMES = Threads("called-names", 16)  # those of webhooks that are called now
