"""Measures at warm-up how many samples of each bucket fit in one forward, by bytes of activations."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from models.denoise import Predict
from models.foundations.base import Bucket, Foundation
from models.lora.routing import Mix, Routing

GPU_SHARE, CPU_SHARE = 0.9, 0.5  # share of the memory free after loading the model


class PeakBytes(TorchDispatchMode):
    """Measures the peak bytes of live tensors made by operations within the block (`peak`), on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for given in tree_leaves((args, kwargs)):
            if isinstance(given, Tensor):  # a weight or an input: existed before
                self._known.setdefault(given.untyped_storage(), 0)
        made = func(*args, **kwargs)
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self._known:
                storage = tensor.untyped_storage()
                size = self._known[storage] = storage.nbytes()
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, size)
        return made

    def _gone(self, size: int) -> None:
        self.now -= size


class ForwardBudget:
    """Maximum rows of a forward. For a bucket that was not measured, estimated from its pixels.

    Args:
        rows: of the measured buckets; there must be one at least.
    """

    def __init__(self, rows: Mapping[Bucket, int]) -> None:
        self._rows = {bucket: max(1, n) for bucket, n in rows.items()}
        self._pixels = min(n * pixels(bucket) for bucket, n in self._rows.items())

    def rows(self, bucket: Bucket) -> int:
        """Maximum rows for a bucket, at least 1."""
        if bucket in self._rows:
            return self._rows[bucket]
        return max(1, self._pixels // pixels(bucket))


def pixels(bucket: Bucket) -> int:
    return bucket.frames * bucket.height * bucket.width


def measure(
    foundation: Foundation, buckets: Iterable[Bucket], available: int | None = None, most: int = 512
) -> ForwardBudget:
    """Run two forwards per bucket, with one row and with two, and compute how many rows fit.

    Args:
        available: bytes for a forward's activations; None: most of the device's free memory.
        most: upper limit of rows.
    """
    if available is None:
        available = free_bytes(foundation.device)
    rows = {}
    for bucket in buckets:
        one, two = (forward_bytes(foundation, bucket, n) for n in (1, 2))
        each = max(1, two - one)
        rows[bucket] = min(most, (available - max(0, one - each)) // each)
    return ForwardBudget(rows)


def forward_bytes(foundation: Foundation, bucket: Bucket, rows: int) -> int:
    """Peak activation bytes of one forward with adapters."""
    inputs = example(foundation, bucket, rows, routing_like(foundation, rows, 1))
    if foundation.device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated(foundation.device)
        torch.cuda.reset_peak_memory_stats(foundation.device)
        forward(foundation.predict, inputs)
        return torch.cuda.max_memory_allocated(foundation.device) - before
    with PeakBytes() as counted:
        forward(foundation.predict, inputs)
    return counted.peak


Inputs = tuple[Tensor, Tensor, Tensor, Routing | None]


@torch.no_grad()
def forward(predict: Predict, inputs: Inputs) -> None:
    """Run one forward and discard the result."""
    predict(*inputs)


def example(foundation: Foundation, bucket: Bucket, rows: int, routing: Routing | None) -> Inputs:
    """Example inputs of a forward, with the types that `denoise_step` uses."""
    latents = torch.zeros((rows, *foundation.latent_shape(bucket)), device=foundation.device)
    t_B = torch.full((rows,), foundation.noise.num_train_timesteps / 2, device=foundation.device)
    return latents, t_B, foundation.encode_text([""]).expand(rows, -1, -1), routing


def routing_like(foundation: Foundation, rows: int, width: int) -> Routing | None:
    """A routing to the base slot: `width` adapters per row on each path of the bank."""
    bank = foundation.bank
    if bank is None:
        return None
    mixes: dict[str, Any] = {
        path: Mix.of([[0] * width] * rows, [[0.0] * width] * rows, device=foundation.device)
        for path, slots in bank.slots.items()
        if slots
    }
    return Routing(**mixes)


def free_bytes(device: torch.device) -> int:
    """Bytes that a forward may use: a share of the memory that is free now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(GPU_SHARE * (free + cached))
    return int(CPU_SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
