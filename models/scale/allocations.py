"""The peak of the memory that tensor operations allocate, counted as they run: on real tensors or on fake ones.

`torch.distributed._tools.mem_tracker` does this for models whose every parameter learns; it refuses frozen weights.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Within this block: the bytes of all storages that operations made, and the most that were alive at once.

    Memory that a kernel takes and returns within one operation is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # What exists before is not counted: only new storages are.
        before = {_storage_key(one) for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)}
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor):
                self._count(one, before)
        return made

    def _count(self, tensor: torch.Tensor, before: set[int]) -> None:
        key = _storage_key(tensor)
        if key in before or key in self._known:
            return
        storage = tensor.untyped_storage()
        self._known.add(key)
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._freed, key, storage.nbytes())

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def _storage_key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


@contextmanager
def without_values() -> Iterator[None]:
    """Within this block tensors have a shape, a dtype and a device but no memory, so any size can be computed."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cpu"):
        yield


def fake(module: nn.Module) -> None:
    """Move a module from the meta device to the CPU within `without_values`.

    The meta device has other kernels (its attention would allocate every pair of tokens) than a device that computes.
    """
    for part in module.modules():
        stores: list[Any] = [part._parameters, part._buffers]
        for store in stores:
            for name, tensor in list(store.items()):
                if tensor is not None:
                    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    learns = isinstance(tensor, nn.Parameter)
                    store[name] = nn.Parameter(empty, requires_grad=False) if learns else empty
