"""Thread pools for calls that may take minutes. The event loop's default threads serve the database.

Ray gives an ingress five threads. A registry, a results storage or a name server that hangs would soon
block them all, and then no jobs could be read and no leases renewed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from serving.adapters.storage_faults import storage_faults

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


class Threads:
    """Up to `most` threads for one kind of call, started on demand.

    Args:
        storage: name of the server's storage that the calls use, if any; its errors become `StorageFault`.
    """

    def __init__(self, name: str, most: int, storage: str | None = None) -> None:
        self._pool, self._storage = ThreadPoolExecutor(most, thread_name_prefix=name), storage

    async def run(
        self, call: Callable[Given, Answer], /, *args: Given.args, **kwargs: Given.kwargs
    ) -> Answer:
        """Run a call and return its result. Cancellation prevents its start, but does not interrupt it."""
        return await asyncio.wrap_future(self.begin(functools.partial(call, *args, **kwargs)))

    def begin(self, call: Callable[[], Answer]) -> Future[Answer]:
        """Start a call at once or when a thread is free; returns its future."""
        return self._pool.submit(self._call, call)

    def _call(self, call: Callable[[], Answer]) -> Answer:
        with storage_faults(self._storage) if self._storage else contextlib.nullcontext():
            return call()


class Shares:
    """Limits the threads of each tenant: calls beyond its share wait for its earlier calls.

    For one event loop.

    Args:
        each: maximum threads of one tenant.
    """

    def __init__(self, threads: Threads, each: int) -> None:
        self._threads, self._each = threads, each
        self._places: dict[str, asyncio.Semaphore] = {}  # by tenant; there are at most as many as API keys

    async def run(
        self, tenant: str, call: Callable[Given, Answer], /, *args: Given.args, **kwargs: Given.kwargs
    ) -> Answer:
        """Run a call and return its result. A started call runs on if cancelled, and keeps its place."""
        place = self._places.setdefault(tenant, asyncio.Semaphore(self._each))
        loop = asyncio.get_running_loop()

        def free(_call: Future[Answer]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: no task waits
                loop.call_soon_threadsafe(place.release)

        await place.acquire()
        begun = self._threads.begin(functools.partial(call, *args, **kwargs))
        begun.add_done_callback(free)
        return await asyncio.wrap_future(begun)


CONCEPTS, VIDEOS, FILES = "the concept registry", "the results storage", "the file storage"
REGISTRY = Threads("registry", 8, CONCEPTS)  # concepts that requests name
LISTS = Threads(
    "lists", 2, CONCEPTS
)  # lists of the whole registry: many reads, which requests must not wait for
DISK_CHECKS = Threads("disk-checks", 1)
RESULTS = Threads("results", 8, VIDEOS)
UPLOADS = Threads("uploads", 8, FILES)  # files that arrive, and are copied from and to the results storage
VALIDATIONS = Threads("validations", 2, FILES)  # files of trainings that are decoded, for minutes
IMAGES = Threads("images", 2, FILES)  # images of requests that are decoded, each in a process of its own
READS_EACH, LISTS_EACH = 2, 1  # of REGISTRY and LISTS, per tenant
NAMES = Threads("names", 16)  # host names of webhooks in new requests
CALLED_NAMES = Threads("called-names", 16)  # host names of webhooks being called
