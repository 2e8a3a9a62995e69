"""SIGTERM in the worker of a lane's Ray Train run is a notice, not the end.

Python hears signals in a process's main thread, and Ray Train trains in another. A backend's functions run in the main
one, so a lane's run has `LaneTorch` where others have `TorchConfig`.
"""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from typing import Any

from ray.train.torch import TorchConfig

TERMINATED, LISTENING = threading.Event(), threading.Event()  # of this process


def hear_sigterm() -> None:
    """In the worker's main thread: SIGTERM is a notice while a lane runs, and what it was before otherwise."""
    before: Any = signal.getsignal(signal.SIGTERM)

    def heard(number: int, frame: Any) -> None:
        if LISTENING.is_set():
            TERMINATED.set()
        else:
            before(number, frame)

    signal.signal(signal.SIGTERM, heard)


class LaneBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    """Torch's, with the signal handler."""

    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_training_start(worker_group, backend_config)
        worker_group.execute(hear_sigterm)


@dataclass
class LaneTorch(TorchConfig):
    """`TorchConfig` for lanes."""

    @property
    def backend_cls(self) -> Any:
        return LaneBackend
