"""Ray Train's processes: their variables, and how they are up before they are needed.

Beside its workers a run has a controller and four helpers of the controller's. Each is a process that Ray starts when the one
before it asks for it, and that then imports Ray Train; a worker imports torch, DeepSpeed and diffusers as well. Where a session
begins with the training (`session_variables`), these processes start while the driver loads the foundation. Ray gives an actor an idle
process only where its environment variables are the same, so they are named here, once.
"""

from __future__ import annotations

import os
from pathlib import Path

from infra.prestart import prestart
from training.shown import harmless

RAY_SETTINGS = {
    # Importing torch and DeepSpeed from a cold or busy disk takes minutes; Ray's own limit is one.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "900",
    # A checkpoint counts from the controller's next look at the workers on: what a crash then costs.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Ray Train's own default. It gives this to its processes, whether it is set or not.
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",
}
ONE_MACHINE = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"
}  # a process that watches for nodes that are taken away
PRELOAD = "MOTIONDIRECTOR_PRELOAD"  # the foundation that a worker will load; empty: no matter which
OWN = 5  # the controller and its helpers
KEPT_S = 300  # the driver may be loading for minutes


def session_variables() -> dict[str, str]:
    """Variables of a `ray_session` that begins with a training."""
    return {
        "RAY_preload_python_modules": "training.preload",
        "RAY_prestart_worker_first_driver": "0",  # idle processes with other variables, which nothing would use
        "RAY_worker_maximum_startup_concurrency": str(
            max(2 * OWN, os.cpu_count() or 1)
        ),  # what is more is forgotten
    }


def worker_variables(foundation: str | None, *, use_gpu: bool) -> dict[str, str]:
    """Variables of the workers alone: what `preload.py` loads there. A model that may have to be fetched is left to the driver.

    None on a GPU: it is given to a worker's process when work is, and torch must not look for one before.
    """
    if use_gpu:
        return {}
    here = foundation is None or foundation.startswith("tiny-random:") or Path(foundation).is_absolute()
    return {PRELOAD: (foundation or "sprites") if here else ""}


def begin_processes(foundation: str | None, workers: int, *, use_gpu: bool) -> None:
    """Have the processes of a training start, on this node, before there is work for them; returns at once.

    Args:
        foundation: as the workers load it.
    """
    wanted = {name: os.environ.get(name, value) for name, value in (RAY_SETTINGS | ONE_MACHINE).items()}
    with harmless("the workers' processes do not start ahead of their work"):
        if not use_gpu:  # what takes longest first
            prestart(wanted | worker_variables(foundation, use_gpu=use_gpu), workers, KEPT_S, merged=True)
        prestart(wanted, OWN, KEPT_S)
