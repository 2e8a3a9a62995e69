"""Explains why a foundation does not fit its device: what was loaded, the device's memory, and what to do.

with explaining_memory(source, "fp32", 0, device):
    foundation = load_foundation(source, device=device, ...)
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from infra.errors import OutOfMemory


@contextmanager
def explaining_memory(
    source: str | None, dtype: str, zero: int, device: str | torch.device | None = None
) -> Iterator[None]:
    """Wraps the loading of a foundation for training.

    Args:
        source: the foundation's source; None: the embedded one.
        dtype: "fp32" or "bf16".
        zero: DeepSpeed's ZeRO stage.
        device: None: CUDA if available, as in `load_foundation`.

    Raises:
        OutOfMemory: the device has too little memory.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        on = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        ways = ["dtype bf16"] if dtype == "fp32" else []
        ways += ["zero 3 with workers 2 or more"] if zero != 3 else []
        raise OutOfMemory(
            f"the foundation {source or 'sprites'} in {dtype} does not fit the memory of {device_name(on)} "
            f"({device_memory(on) / 2**30:.1f} GiB); use {' or '.join([*ways, 'a device with more memory'])}.",
            code="foundation_too_large",
        ) from None


def device_name(device: torch.device) -> str:
    """Human-readable name of a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"


def device_memory(device: torch.device) -> int:
    """Memory in bytes: of the GPU, or of the machine within its control group's limit."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and limit.read_text().strip().isdigit():
        memory = min(memory, int(limit.read_text()))
    return memory
