"""Makes malloc keep freed memory instead of returning it to the system, for training on the CPU.

By default glibc maps each large block anew and trims its heap, so in every step the kernel has to find
and clear pages for the saved activations. Keeping the memory saves up to a quarter of a training step
on the CPU, sometimes nothing (docs/benchmarks.md, benchmarks/allocator.py). Results do not change.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

# mallopt's parameters, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER = 2**31 - 1  # bytes on top of the heap before it is trimmed; mallopt takes an int
_TOP_PAD = 64 << 20  # extra bytes requested from the system when the heap grows
_SETTINGS = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _NEVER, _M_TOP_PAD: _TOP_PAD}
_VARIABLES = {  # glibc reads the same settings from these when a process starts
    _M_MMAP_MAX: "MALLOC_MMAP_MAX_",
    _M_TRIM_THRESHOLD: "MALLOC_TRIM_THRESHOLD_",
    _M_TOP_PAD: "MALLOC_TOP_PAD_",
}


def keep_freed_memory() -> bool:
    """Let this process reuse the memory that it frees. It then holds its peak memory until it ends.

    Call it at the start of a process, not in library functions: it affects the whole process. Does nothing
    without glibc's malloc (macOS, musl).

    Returns:
        Whether malloc accepted the settings.
    """
    libc = _glibc()
    if libc is None:
        return False
    return all(libc.mallopt(name, value) == 1 for name, value in _SETTINGS.items())


def keeping_environment() -> dict[str, str]:
    """Environment variables with the same effect, for a process that does not call `keep_freed_memory`."""
    return {_VARIABLES[name]: str(value) for name, value in _SETTINGS.items()}


def give_back_freed_memory() -> None:
    """Return all freed memory of this process to the system, once."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@functools.cache
def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
