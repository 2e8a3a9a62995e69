"""Tells a request that failed from a device that is lost, which ends the whole engine."""

from __future__ import annotations

import torch

from infra.errors import UserError
from serving.events import Failed


def check_device(device: torch.device) -> None:
    """Raise if the device is lost: after some CUDA errors every later call of the process fails."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def failure_of(error: BaseException, device: torch.device) -> Failed:
    """The final event of a failed request.

    Raises the device's error if the device is lost: then the request is not at fault, and the engine ends.
    """
    if not isinstance(error, UserError):
        check_device(device)
    return Failed.of(error)
