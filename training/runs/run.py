"""A whole training job: clips in, a published version out.

    run_job(Job(concept="orbit", data="clips", run_dir="runs/orbit"), {"steps": 200})

Read clips -> load the foundation, while Ray starts -> prepare latents -> train on Ray -> adapter file and samples ->
registry. All files of the run are in one folder or prefix:

    <run>/config.yaml      the resolved settings; `motiondirector train --config` repeats the run
    <run>/run.json         foundation's fingerprint, hash of the data, the run's id
    <run>/train/           checkpoints (training/ray/train.py)
    <run>/samples/         mp4s and contact sheets;  <run>/tensorboard/  scalars and sheets
    <run>/adapter/         the published files;      <run>/result.json   where they were published

A run that is started again in the same folder continues where it stopped; a finished run returns its version. With
more `steps`, a finished run continues from its last checkpoint, with the same result as if it had been started with
them, and publishes the next version.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from infra.registry import Registry, Version, check_concept_name, open_registry
from infra.storage import Storage, open_storage
from training.config import TrainConfig, make_config
from training.recommended import resolve
from training.runs.inputs import (
    check_before_loading,
    foundation_source,
    learned_parts,
    load,
    prepare_latents,
    read_concept,
    remarks_on,
)
from training.runs.job import Job, Watcher, part
from training.runs.record import RunIdentity, finished, steps_of

if TYPE_CHECKING:
    from datasets.clip_sets.latents import CachedClip
    from models.foundations.base import Foundation


def run_job(job: Job, given: Mapping[str, Any], watcher: Watcher | None = None) -> Version:
    """Train and publish a version, or continue a run that was begun.

    Args:
        given: settings from the command line and its YAML file; others come from the foundation or the defaults.

    Raises:
        UserError: an input is wrong or training failed; the message is one sentence.
        KeyboardInterrupt: Ctrl-C; only the steps since the last checkpoint are lost.
    """
    from training.reporting.tensorboard import TensorBoard

    watcher = watcher or Watcher()
    check_concept_name(job.concept)
    check_concept_name(job.name)
    make_config(dict(given))  # report wrong settings before anything is loaded
    run, registry = open_storage(job.run_dir), open_registry(job.registry)
    done = finished(run, registry)
    with part(watcher, "reading clips"):
        clips = read_concept(job)
    with part(watcher, "finding the foundation"):
        config = check_before_loading(job, given, clips)
    with ExitStack() as stack:
        if done is None:
            foundation, config = load_while_ray_starts(job, given, config, len(clips), watcher, stack)
        else:  # there may be nothing to train
            foundation, config = load_shown(job, given, len(clips), watcher)
        bucket, parts = learned_parts(config, foundation, clips)
        if len(parts) > len(clips):  # windows of a long clip are several clips
            config = resolve(dict(given), foundation.recommended, len(parts))
        config = config.model_copy(
            update={"frames": bucket.frames, "height": bucket.height, "width": bucket.width}
        )
        for remark in remarks_on(parts, foundation, config):
            watcher.note(remark)
        identity = RunIdentity.of(job, config, foundation, parts)
        identity.check(run)
        if done is not None and config.steps <= steps_of(done, config):
            watcher.stage(f"already finished, published as {done.ref}")
            return done
        with part(watcher, "preparing latents"):
            cached = prepare_latents(job, clips, foundation, bucket, watcher, config)
        if done is not None:
            start_ray(job, config, watcher, stack)
        board = stack.enter_context(TensorBoard(run))
        return _train_and_publish(job, config, foundation, cached, run, registry, identity, watcher, board)


def load_while_ray_starts(
    job: Job,
    given: Mapping[str, Any],
    config: TrainConfig,
    clips: int,
    watcher: Watcher,
    stack: ExitStack,
) -> tuple[Foundation, TrainConfig]:
    """`load` in a thread, while this thread starts Ray, which runs until the stack ends.

    The calling thread starts Ray because Ray's processes end with the thread that started them. Ctrl-C does not wait
    for the foundation.
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
        wait([loading])  # a process may crash if it ends while libraries are being loaded
        raise
    return loading.result()


def load_shown(
    job: Job, given: Mapping[str, Any], clips: int, watcher: Watcher
) -> tuple[Foundation, TrainConfig]:
    """`load` as a part of the job."""
    with part(watcher, "loading the foundation"):
        return load(job, given, clips)


def start_ray(job: Job, config: TrainConfig, watcher: Watcher, stack: ExitStack) -> None:
    """Connect to Ray, or start it, until the stack ends. If it starts here, also start the workers' processes.

    Raises UserError (422) if there is no room for the workers.
    """
    from infra.ray.cluster import check_workers, has_gpus, ray_session, variables
    from training.ray.processes import ONE_MACHINE, begin_processes, session_variables

    with part(watcher, "starting Ray"):
        with variables(session_variables()):
            cluster = stack.enter_context(ray_session(job.address))
        use_gpu, workers = has_gpus(), config.worker_range[0]
        check_workers(workers, gpus=1 if use_gpu else 0)
        if cluster.started:
            stack.enter_context(variables(ONE_MACHINE))
            begin_processes(foundation_source(job.foundation), workers, use_gpu=use_gpu)


def _train_and_publish(
    job: Job,
    config: TrainConfig,
    foundation: Foundation,
    cached: list[CachedClip],
    run: Storage,
    registry: Registry,
    identity: RunIdentity,
    watcher: Watcher,
    board: Any,
) -> Version:
    from infra.ray.cluster import check_workers, has_gpus
    from training.ray.train import STARTING_WORKERS, Task, fit
    from training.reporting.metrics import EndMetrics
    from training.reporting.shown import harmless
    from training.runs.publish import publish_run
    from training.runs.samples import Rendering

    prompts = list(config.sample_prompts) or [cached[0].caption]
    task = Task(
        concept=job.concept,
        foundation=foundation_source(job.foundation),
        fingerprint=foundation.fingerprint,
        data_sha256=identity.facts["data_sha256"],
        config=config,
        clips=cached,
    )
    use_gpu = has_gpus()
    check_workers(config.worker_range[0], gpus=1 if use_gpu else 0)
    record = identity.put(run)
    rendering = Rendering(task, run, foundation, prompts, record.id, use_gpu)

    def samples(step: int, keys: Sequence[str]) -> None:
        with harmless(f"the samples of step {step} are not shown"):
            board.sampled(step, keys)
            watcher.sampled(step, keys)

    began = time.monotonic()

    def on_event(event: dict[str, Any]) -> None:
        match event.pop("kind"):
            case "stage":
                watcher.stage(event["text"])
            case "part":  # without seconds: measured since the training began
                seconds = event["seconds"]
                watcher.passed(event["text"], time.monotonic() - began if seconds is None else seconds)
            case "start":
                watcher.started(**event)
            case "step":
                board.stepped(event)
                watcher.stepped(event)
            case "sample":
                rendering.submit(event["step"], event["tensors"])
        for step, keys in rendering.ready():
            samples(step, keys)

    watcher.stage(STARTING_WORKERS)
    state = fit(task, run, use_gpu=use_gpu, on_event=on_event)
    with part(watcher, "rendering samples"):
        keys = rendering.final(state)
        for step, earlier in rendering.rest():
            samples(step, earlier)
        if keys:
            samples(state.step, keys)
    with part(watcher, "publishing"):
        version = publish_run(
            job, config, foundation, cached, run, registry, record, state, keys, rendering.invert
        )
    EndMetrics()(job.concept, "published")
    return version
