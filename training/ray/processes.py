"""Ray Train's processes: their environment variables, and how to start them before they are needed.

Beside its workers, a run has a controller and two helper processes of the controller (`trainer.py` leaves others out). By default Ray
starts each when the previous one asks for it. Each then imports Ray Train; a worker also imports torch,
DeepSpeed and diffusers. If a session begins with the training (`session_variables`), these processes
start while the driver loads the foundation. Ray assigns an idle process to an actor only if their
environment variables are equal, so this module is the only place that names them.
"""

from __future__ import annotations

import os
from pathlib import Path

from infra.ray.prestart import prestart
from training.reporting.shown import harmless

RAY_SETTINGS = {
    # Importing torch and DeepSpeed from a cold or busy disk takes minutes; Ray's default limit is one minute.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "900",
    # A checkpoint counts only after the controller's next health check: a short interval loses less in
    # a crash.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Ray Train's default. It passes this to its processes whether it is set or not.
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",
}
ONE_MACHINE = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"
}  # saves the process that watches for preempted nodes
PRELOAD = "MOTIONDIRECTOR_PRELOAD"  # the foundation that a worker will load; empty: import libraries only
OWN = 3  # the controller and its helpers
KEPT_S = 300  # the driver may load for minutes


def on_one_machine() -> bool:
    """Whether the session was started on this machine for one training, and ends with it."""
    return all(os.environ.get(name) == value for name, value in ONE_MACHINE.items())


def session_variables() -> dict[str, str]:
    """Environment variables of a `ray_session` that begins with a training."""
    return {
        "RAY_preload_python_modules": "training.ray.preload",
        "RAY_prestart_worker_first_driver": "0",  # nothing would use these processes: their variables differ
        "RAY_worker_maximum_startup_concurrency": str(
            max(2 * OWN, os.cpu_count() or 1)
        ),  # Ray drops requests beyond this limit
    }


def worker_variables(foundation: str | None, *, use_gpu: bool) -> dict[str, str]:
    """Environment variables of the workers only: they tell `preload.py` what to load.

    A model that may have to be downloaded is left to the driver. On a GPU there are no such variables: a
    process gets its GPU together with its work, and torch must not look for one before.
    """
    if use_gpu:
        return {}
    here = foundation is None or foundation.startswith("tiny-random:") or Path(foundation).is_absolute()
    return {PRELOAD: (foundation or "sprites") if here else ""}


def begin_processes(foundation: str | None, workers: int, *, use_gpu: bool) -> None:
    """Start the processes of a training on this node before there is work for them; returns at once.

    Args:
        foundation: the source that the workers will load.
    """
    wanted = {name: os.environ.get(name, value) for name, value in (RAY_SETTINGS | ONE_MACHINE).items()}
    with harmless("the workers' processes could not be started in advance"):
        if not use_gpu:  # start the slowest first
            prestart(wanted | worker_variables(foundation, use_gpu=use_gpu), workers, KEPT_S, merged=True)
        prestart(wanted, OWN, KEPT_S)
