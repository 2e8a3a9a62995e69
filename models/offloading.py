"""Text encoder and VAE that wait in host memory and come to the GPU for as long as they work.

The denoiser stays: it works in every step, and the slots of its adapters are on its device. diffusers' own offloading
(`enable_model_cpu_offload`) moves a component when its forward is called and leaves the inputs of `vae.decode` to the
pipeline, which a foundation does not run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Literal, get_args

import torch
from torch import nn

from infra.errors import InvalidInput
from models.foundations.base import Foundation

Offloading = Literal["none", "encoders"]
WORK = {
    "text": ("encode_text",),
    "vae": ("encode_video", "encode_frames", "encode_both", "condition", "decode"),
}


def check_offload(kind: Offloading, device: torch.device) -> None:
    """Raise InvalidInput for a kind that does not exist, and for a model that is in host memory anyway."""
    if kind not in get_args(Offloading):
        raise InvalidInput(f"offload {kind!r} is not one of {', '.join(get_args(Offloading))}.")
    if kind != "none" and device.type == "cpu":
        raise InvalidInput(
            f"offload {kind} frees the memory of a GPU, and the model is on the CPU; leave offload out, or give a GPU."
        )


def offload_encoders(foundation: Foundation, device: torch.device) -> None:
    """Leave the text encoder and the VAE where they are, and let them work on `device`."""
    for part, methods in WORK.items():
        names = foundation.spec.components[part]
        modules = [
            one for name in names if isinstance(one := getattr(foundation.pipeline, name, None), nn.Module)
        ]
        visit = Visit(modules, device)
        for method in methods:
            setattr(foundation, method, visit.during(getattr(foundation, method)))


class Visit:
    """Modules that are on a device only during certain calls, which may be nested, and come from any thread.

    Args:
        modules: in host memory.
    """

    def __init__(self, modules: Sequence[nn.Module], device: torch.device) -> None:
        self.modules, self.device = modules, device
        self._lock, self._depth = threading.RLock(), 0

    def during(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, with the modules on the device."""

        @wraps(call)
        def visiting(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self._move(1)
                try:
                    return call(*args, **kwargs)
                finally:
                    self._move(-1)

        return visiting

    def _move(self, change: int) -> None:
        before, self._depth = self._depth, self._depth + change
        if (before == 0) != (self._depth == 0):
            for module in self.modules:
                module.to(self.device if self._depth else "cpu")
