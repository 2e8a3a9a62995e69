"""How malloc gives memory back to the system: not at all, in a process that trains on the CPU.

glibc maps each large block afresh and trims its heap, so the activations that a step saves begin as pages which the kernel
has to find and clear, and the next step pays for them again. Keeping it saves between nothing and a quarter of a training step
on the CPU (docs/benchmarks.md, benchmarks/allocator.py); no number changes.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

# mallopt's parameters, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER = 2**31 - 1  # bytes on top of the heap before it is trimmed; mallopt takes an int
_TOP_PAD = 64 << 20  # bytes asked of the system beyond what is needed, when the heap grows
_SETTINGS = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _NEVER, _M_TOP_PAD: _TOP_PAD}
_VARIABLES = {  # what glibc reads the same from when a process starts
    _M_MMAP_MAX: "MALLOC_MMAP_MAX_",
    _M_TRIM_THRESHOLD: "MALLOC_TRIM_THRESHOLD_",
    _M_TOP_PAD: "MALLOC_TOP_PAD_",
}


def keep_freed_memory() -> bool:
    """Let this process reuse the memory that it frees, so that it holds its peak until it ends.

    For the start of a process of ours, not for library functions: it concerns the whole process. Does nothing where malloc is
    not glibc's (macOS, musl).

    Returns:
        Whether malloc took it.
    """
    libc = _glibc()
    if libc is None:
        return False
    return all(libc.mallopt(name, value) == 1 for name, value in _SETTINGS.items())


def keeping_environment() -> dict[str, str]:
    """The environment of a process that does the same without calling `keep_freed_memory`."""
    return {_VARIABLES[name]: str(value) for name, value in _SETTINGS.items()}


def give_back_freed_memory() -> None:
    """Return to the system what this process has freed, once, so that what it holds is what it uses."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@functools.cache
def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
