"""What a process holds after it freed much: all of it when told to keep it, little when told to give it back."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from infra.allocator import keeping_environment

SCRIPT = """
import ctypes, sys
from pathlib import Path
from infra.allocator import give_back_freed_memory, keep_freed_memory

def held_mib():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) // 1024

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
if sys.argv[1] == "keep":
    assert keep_freed_memory()
before, size = held_mib(), 100 << 20
for _ in range(2):
    block = libc.malloc(size)
    libc.memset(block, 1, size)
    libc.free(block)
freed = held_mib() - before
give_back_freed_memory()
print(freed, held_mib() - before)
"""


def held(how: str, environment: dict[str, str] | None = None) -> list[int]:
    """MiB beyond the start: after 100 were freed, and after they were given back."""
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, how],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **(environment or {})},
    )
    return [int(word) for word in ran.stdout.split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is on Linux")
def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    kept, given_back = held("keep")
    assert kept >= 95
    assert given_back <= 10
    freed, _ = held("as it comes")
    assert freed <= 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is on Linux")
def test_the_environment_keeps_as_the_call_does() -> None:
    kept, _ = held("as it comes", keeping_environment())
    assert kept >= 95
