"""How many samples one forward may take: measured at warm-up, by bucket, in bytes of activations."""

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
from models.foundation import Bucket, Foundation
from models.routing import Mix, Routing

GPU_SHARE, CPU_SHARE = 0.9, 0.5  # of the memory that is free after the model is loaded


class PeakBytes(TorchDispatchMode):
    """Within this block: most bytes of tensors made by operations that were alive at once (`peak`), on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for given in tree_leaves((args, kwargs)):
            if isinstance(given, Tensor):  # a weight, or an input: it was there before
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
    """Most rows of a forward. A bucket that was not measured gets what its pixels leave room for.

    Args:
        rows: of the measured buckets, at least one each.
    """

    def __init__(self, rows: Mapping[Bucket, int]) -> None:
        self._rows = {bucket: max(1, n) for bucket, n in rows.items()}
        self._pixels = min(n * pixels(bucket) for bucket, n in self._rows.items())

    def rows(self, bucket: Bucket) -> int:
        """At least 1."""
        if bucket in self._rows:
            return self._rows[bucket]
        return max(1, self._pixels // pixels(bucket))


def pixels(bucket: Bucket) -> int:
    return bucket.frames * bucket.height * bucket.width


def measure(
    foundation: Foundation, buckets: Iterable[Bucket], available: int | None = None, most: int = 512
) -> ForwardBudget:
    """Two forwards a bucket, of one row and of two, and how many rows of that kind fit.

    Args:
        available: bytes for a forward's activations; None: most of what is free on the foundation's device.
        most: rows that are never passed.
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
    """Peak bytes of activations of one forward with adapters."""
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
    """One forward whose answer nobody needs."""
    predict(*inputs)


def example(foundation: Foundation, bucket: Bucket, rows: int, routing: Routing | None) -> Inputs:
    """Inputs of a forward, of the kinds that `denoise_step` gives."""
    latents = torch.zeros((rows, *foundation.latent_shape(bucket)), device=foundation.device)
    t_B = torch.full((rows,), foundation.noise.num_train_timesteps / 2, device=foundation.device)
    return latents, t_B, foundation.encode_text([""]).expand(rows, -1, -1), routing


def routing_like(foundation: Foundation, rows: int, width: int) -> Routing | None:
    """A routing of the base slot: `width` adapters a row on each path that the bank has."""
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
    """What a forward may take of the memory that is free now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(GPU_SHARE * (free + cached))
    return int(CPU_SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
