"""Makes SIGTERM a notice to stop, not the end, in the worker of a lane's Ray Train run.

Python handles signals in a process's main thread, but Ray Train trains in another thread. A backend's
functions run in the main thread, so lanes use `LaneTorch` instead of `TorchConfig`.
"""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from typing import Any

from ray.train.torch import TorchConfig

TERMINATED, LISTENING = threading.Event(), threading.Event()  # of this process


def handle_sigterm() -> None:
    """Make SIGTERM a notice while a lane runs; otherwise it acts as before. Call it in the main thread."""
    before: Any = signal.getsignal(signal.SIGTERM)

    def handler(number: int, frame: Any) -> None:
        if LISTENING.is_set():
            TERMINATED.set()
        else:
            before(number, frame)

    signal.signal(signal.SIGTERM, handler)


class LaneBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    """The torch backend with this signal handler."""

    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_training_start(worker_group, backend_config)
        worker_group.execute(handle_sigterm)


@dataclass
class LaneTorch(TorchConfig):
    """`TorchConfig` for lanes."""

    @property
    def backend_cls(self) -> Any:
        return LaneBackend
