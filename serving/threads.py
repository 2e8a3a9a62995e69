"""Threads for what may take minutes, apart from the event loop's own, which are the database's.

Ray gives an ingress five threads. A registry, a results storage or a name server that hangs would soon hold them all, and
nobody's jobs were read or their leases renewed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
        loop = asyncio.get_running_loop()
        with storage_faults(self._storage) if self._storage else contextlib.nullcontext():
            return await loop.run_in_executor(self._pool, functools.partial(call, *args, **kwargs))


CONCEPTS = "the concept registry"
REGISTRY = Threads("registry", 8, CONCEPTS)  # what a request names
LISTS = Threads(
    "lists", 2, CONCEPTS
)  # all that the registry has, which is many reads: requests need not wait for those
RESULTS = Threads("results", 8, "the results storage")
NAMES = Threads("names", 16)
