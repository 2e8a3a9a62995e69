"""The start of a job: Ray and the foundation, at the same time."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future, wait
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from training.config import TrainConfig
from training.inputs import foundation_source, load
from training.job import Job, Watcher, part

if TYPE_CHECKING:
    from models.foundation import Foundation


def load_while_ray_starts(
    job: Job,
    given: Mapping[str, Any],
    config: TrainConfig,
    clips: int,
    watcher: Watcher,
    stack: ExitStack,
) -> tuple[Foundation, TrainConfig]:
    """`load`, and Ray until the stack ends.

    Ray is started by the calling thread: its processes end with the thread that started them. Ctrl-C does not wait for the
    foundation.
    """
    loading: Future[tuple[Foundation, TrainConfig]] = Future()

    def work() -> None:
        try:
            loading.set_result(load_shown(job, given, clips, watcher))
        except BaseException as error:
            loading.set_exception(error)

    threading.Thread(target=work, name="foundation", daemon=True).start()
    try:
        start_ray(job, config, watcher, stack)
    except Exception:
        wait([loading])  # a process does not end well while libraries are loaded
        raise
    return loading.result()


def load_shown(
    job: Job, given: Mapping[str, Any], clips: int, watcher: Watcher
) -> tuple[Foundation, TrainConfig]:
    """`load` as a part of the job."""
    with part(watcher, "loading the foundation"):
        return load(job, given, clips)


def start_ray(job: Job, config: TrainConfig, watcher: Watcher, stack: ExitStack) -> None:
    """Have Ray until the stack ends, with room for the workers; one that starts here has processes for them soon.

    Raises UserError (422) where there is no room.
    """
    from infra.cluster import check_workers, has_gpus, ray_session, variables
    from training.ray_processes import ONE_MACHINE, begin_processes, session_variables

    with part(watcher, "starting Ray"):
        with variables(session_variables()):
            cluster = stack.enter_context(ray_session(job.address))
        use_gpu, workers = has_gpus(), config.worker_range[0]
        check_workers(workers, gpus=1 if use_gpu else 0)
        if cluster.started:
            stack.enter_context(variables(ONE_MACHINE))
            begin_processes(foundation_source(job.foundation), workers, use_gpu=use_gpu)
