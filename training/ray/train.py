"""One concept's training on Ray Train: orchestration only, the work is in `training/loop/pack.py`.

Every worker loads the denoiser (latents and text are prepared before, so it needs no text encoder and no VAE),
restores the newest checkpoint if there is one, and trains. Checkpoints go to the run's storage through
`ray.train.report`. Losses to show and adapters to render go to the driver through a small actor (`Board`), without a
barrier. If that fails, the training continues without being shown.

    <run>/train/checkpoint_*                 Ray Train's: state.safetensors, and zero/ at ZeRO 1-3 (training/loop/checkpoint.py)
    <run>/train/checkpoint_manager_snapshot.json

A run that is started again in the same storage, or whose worker died, continues from its newest checkpoint.

Ray Train's controller imports this module, so nothing here imports torch before a worker does.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.allocator import keep_freed_memory
from infra.errors import SystemFailure, UserError
from infra.ray.cluster import last_line, variables
from infra.storage import Storage
from training.config import TrainConfig
from training.ray.processes import RAY_SETTINGS, worker_variables
from training.ray.threads import threads_for
from training.ray.trainer import torch_trainer
from training.reporting.board import Parts, start_board, watching

if TYPE_CHECKING:
    from models.foundations.base import Foundation
    from training.loop.checkpoint import MemberState
    from training.loop.pack_of_one import PackOfOne
    from training.loop.report import Recent, StepReport

TRAIN = "train"  # Ray Train's folder in the run's
KEPT_CHECKPOINTS = 2
STARTING_WORKERS = "starting the workers' processes"


@dataclass(frozen=True)
class Task:
    """The training that the workers do."""

    concept: str
    foundation: str | None  # path (absolute) or id, loadable on every node
    fingerprint: str
    data_sha256: str
    config: TrainConfig
    clips: Sequence[Any]  # datasets.clip_sets.latents.CachedClip


def fit(
    task: Task, run: Storage, *, use_gpu: bool, on_event: Callable[[dict[str, Any]], None]
) -> MemberState:
    """Train on the cluster of the current `ray_session`, which must have room for the workers. Returns the last state.

    Args:
        run: the run's folder or prefix; a run that was started there continues.
        use_gpu: one GPU for each worker.
        on_event: called in this process, from a thread, with the first worker's events: {"kind": "stage", ...} (a part of
            its start-up begins), {"kind": "part", ...} (the part ended after so many seconds; None: since `fit` began),
            {"kind": "start", ...}, {"kind": "step", ...} and {"kind": "sample", ...}. Errors on the way or in the callback
            are logged.

    Raises:
        UserError: the loss is not finite, the run cannot continue with these settings, or it failed more than
            `max_failures` times.
        KeyboardInterrupt: Ctrl-C; the run can be continued.
    """
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    from training.loop.checkpoint import MemberState
    from training.reporting.metrics import EndMetrics

    fewest, most = task.config.worker_range
    board = start_board()
    filesystem, path = run.arrow()
    with variables(RAY_SETTINGS):
        trainer = torch_trainer(
            worker,
            train_loop_config={"task": ray.put(task), "board": board},
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=(fewest, most) if task.config.elastic else fewest,  # type: ignore[arg-type]
                use_gpu=use_gpu,
            ),
            run_config=RunConfig(  # type: ignore[call-arg]
                name=TRAIN,
                worker_runtime_env={"env_vars": worker_variables(task.foundation, use_gpu=use_gpu)},
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=FailureConfig(max_failures=task.config.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
            ),
        )
        with watching(board, on_event):
            result = _run(trainer, task)
    refused = result.return_value
    if refused:
        EndMetrics()(task.concept, "failed")
        raise refused
    with result.checkpoint.as_directory() as folder:
        return MemberState.read(Path(folder), moments=False)


def _run(trainer: Any, task: Task) -> Any:
    """`fit()` that raises Ctrl-C as KeyboardInterrupt and failures as SystemFailure."""
    import signal

    from ray.train import TrainingFailedError

    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if main else None
    try:
        return trainer.fit()
    except SystemExit:
        raise KeyboardInterrupt from None  # Ray's own handler of Ctrl-C ends with sys.exit
    except TrainingFailedError as error:
        raise SystemFailure(
            f"concept {task.concept}: training failed more than {task.config.max_failures} times; the last failure "
            f"was {last_line(error)}. The same command continues from the last checkpoint.",
            code="training_failed",
        ) from error
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


def worker(settings: dict[str, Any]) -> UserError | None:
    """Runs on every worker. Returns None, or the error because of which it did not train."""
    import ray

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    try:
        _train(ray.get(settings["task"]), settings["board"])
    except UserError as error:  # another attempt would fail, too
        return error
    return None


def _train(task: Task, board: Any) -> None:
    import ray.train
    import ray.train.torch

    context, config = ray.train.get_context(), task.config
    rank, workers = context.get_world_rank(), context.get_world_size()
    parts = Parts(board if rank == 0 else None)
    parts.arrived(STARTING_WORKERS)
    with parts.doing("importing DeepSpeed"):
        import torch

        from models.load import load_foundation
        from training.loop.deepspeed_engines import import_deepspeed
        from training.memory import explaining_memory

        import_deepspeed()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        keep_freed_memory()
    with parts.doing("loading the model on the workers"):
        with together():
            with explaining_memory(task.foundation, config.dtype, config.zero, device):
                foundation = load_foundation(
                    task.foundation,
                    device=device,
                    **config.loading,
                    parts=("denoiser",),
                    denoiser_on_cpu=config.zero == 3,
                )
            if foundation.fingerprint != task.fingerprint:
                raise UserError(
                    f"the foundation on node {context.get_node_rank()} has fingerprint {foundation.fingerprint[:12]}, but the "
                    f"driver's has {task.fingerprint[:12]}; put the same files at {task.foundation} on every node."
                )
        if device.type == "cpu":
            size = sum(parameter.numel() for parameter in foundation.denoiser.parameters())
            torch.set_num_threads(threads_for(size, context.get_local_world_size()))
    with parts.doing("preparing DeepSpeed"):
        pack = _begin(task, foundation, workers)
    if rank == 0:
        start = {"step": pack.steps_done, "steps": config.steps}
        board.push.remote({"kind": "start", **start, "workers": workers, "device": str(device)})
    _steps(task, pack, board if rank == 0 else None)


def _begin(task: Task, foundation: Foundation, workers: int) -> PackOfOne:
    """The concept in a pack, at its first step or at its newest checkpoint.

    The pack's context is never left: the process ends with it, and DeepSpeed would wait for workers that may be gone.
    """
    import ray.train

    from training.loop.checkpoint import MemberState
    from training.loop.deepspeed_engines import DeepSpeedEngine
    from training.loop.member import Member
    from training.loop.pack_of_one import PackOfOne

    member, stored = Member(task.concept, task.concept, task.config, task.clips), ray.train.get_checkpoint()
    if stored is None:
        return PackOfOne(foundation, member, make_engine=DeepSpeedEngine).__enter__()
    with stored.as_directory() as folder:
        state = MemberState.read(Path(folder))
        state.check_workers(task.config.zero, workers)
        pack = PackOfOne(foundation, member, state, make_engine=DeepSpeedEngine).__enter__()
        pack.engine.load(Path(folder))
    return pack


def _steps(task: Task, pack: PackOfOne, board: Any) -> None:
    """Train to the end, with a checkpoint at each interval.

    Args:
        board: gets the first worker's events; None on the other workers.
    """
    from training.loop.report import Recent
    from training.reporting.metrics import TrainingMetrics

    config, recent, observe = task.config, Recent(), TrainingMetrics()
    for report in pack.train():
        recent.add(report)
        last = report.step == config.steps
        if board is not None:
            observe(task.concept, report)
            board.push.remote({"kind": "step", **report.asdict()})
            if config.sample_interval and report.step % config.sample_interval == 0 and not last:
                tensors = pack.tensors(task.concept)
                board.push.remote({"kind": "sample", "step": report.step, "tensors": tensors})
        if last or report.step % config.checkpoint_interval == 0:
            _report(task, pack, report, recent)


@contextmanager
def together() -> Iterator[None]:
    """Raise a UserError of any worker in the block on all of them; the others would wait in their first collective."""
    import torch.distributed as dist

    problem: UserError | None = None
    try:
        yield
    except UserError as error:
        problem = error
    problems: list[UserError | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    for first in problems:
        if first is not None:
            raise first


def _report(task: Task, pack: PackOfOne, report: StepReport, recent: Recent) -> None:
    """Write a checkpoint of this step. It is in the run's storage when this returns."""
    import ray.train
    from ray.train import Checkpoint

    engine = pack.engine
    with tempfile.TemporaryDirectory(prefix="motiondirector-checkpoint-") as temporary:
        folder = Path(temporary)
        if engine.place.rank == 0:
            position = {
                "workers": engine.place.workers,
                "zero": task.config.zero,
                "concept": task.concept,
                "foundation_fingerprint": task.fingerprint,
                "data_sha256": task.data_sha256,
                "metrics": recent.metrics(),
            }
            replace(pack.state(task.concept), extra=position).write(folder)
        engine.save(folder)
        mine = any(folder.iterdir())
        ray.train.report(
            {"step": report.step, "loss": report.loss},
            checkpoint=Checkpoint.from_directory(temporary) if mine else None,
        )
