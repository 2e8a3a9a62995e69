"""Prepares a batch's latents ahead of its lanes with Ray Data: decoding on CPUs, encoding in an actor.

    preparing = prepare_ahead(batch, plan.works)       # returns at once; needs an initialised Ray
    ...                                                # lanes (with prepare_ahead=False) find what is ready
    preparing.stop()

Orchestration only: the stages are those of prepare.py; the results are stored beside the clips under
content keys. An actor without CPUs runs one pipeline per foundation, so the driver may be a client of a
remote cluster. If there is no room for an encoder (lanes hold every GPU), the pipeline waits and the
lanes prepare what they take. Work that a lane has begun is skipped. Work in progress here that a lane
takes is done twice: lanes are faster and do not wait.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.batch.latents.prepare import (
    Decoded,
    Encoded,
    Missing,
    Portion,
    Prepared,
    decode_portion,
    encode_portion,
    store_portion,
)
from training.batch.state.exclusive import preparation_tasks
from training.batch.state.leased_tasks import LeasedTasks
from training.batch.state.state import BatchState
from training.batch.state.work import Work

if TYPE_CHECKING:
    from models.foundations.base import Foundation

log = logging.getLogger(__name__)

ENCODER_GPUS = 0.5
Row = dict[str, bytes]  # {"item": a pickled Portion, Decoded, Encoded or Prepared}


@dataclass(frozen=True)
class Share:
    """Cluster resources that the preparation may take."""

    cpus: float = 0.5  # per task that decodes or stores
    encoder_cpus: float = 1.0  # must differ from `cpus`: otherwise Ray Data decodes inside the encoder
    gpus: float = 0.0  # per encoder; 0: it encodes on the CPU
    encoders: int = 1

    @property
    def device(self) -> str | None:
        """An encoder's device. "cpu" must be explicit: an actor without a GPU still sees the lanes' GPUs."""
        return None if self.gpus else "cpu"


def share_beside(works: Sequence[Work], limit: int | None, free: float, asked: float | None = None) -> Share:
    """The preparation's share beside lanes that train on GPUs: half a GPU if one is left over, else none.

    Lanes take whole GPUs, so a part of a GPU that a lane needs would delay the lane until everything is
    prepared.

    Args:
        works: the works that the lanes train.
        limit: largest number of lanes; None: as many as fit.
        free: free GPUs of the cluster before the lanes start.
        asked: GPUs of the encoder, if the user sets them; 0: none.
    """
    if asked is not None:
        return Share(gpus=asked)
    workers = sorted((work.config.worker_range[0] for work in works), reverse=True)
    return Share(gpus=ENCODER_GPUS if free - sum(workers[:limit]) >= 1 else 0.0)


def _row(item: Any) -> Row:
    return {"item": pickle.dumps(item)}


def _decode(row: Row) -> Row:
    return _row(decode_portion(pickle.loads(row["item"])))


def _store(row: Row) -> Row:
    return _row(store_portion(pickle.loads(row["item"])))


class _Encoder:
    """An actor of the pipeline that holds the VAE and the text encoder of one foundation."""

    def __init__(self, source: str | None, dtype: str, device: str | None, tasks: LeasedTasks) -> None:
        from models.load import load_foundation

        self.tasks = tasks
        self.foundation: Foundation = load_foundation(
            source, dtype=dtype, device=device, parts=("vae", "text")
        )

    def __call__(self, row: Row) -> Row:
        decoded: Decoded = pickle.loads(row["item"])
        if self.tasks.get(decoded.portion.task) is not None:
            return _row(Encoded(decoded.portion))
        return _row(encode_portion(decoded, self.foundation))


class _Preparer:
    """The actor that runs the pipelines."""

    def __init__(self, share: Share, tasks: LeasedTasks) -> None:
        self.share, self.tasks = share, tasks
        self.done: list[Prepared] = []

    def run(self, works: list[Work]) -> list[Prepared]:
        """Prepare everything, foundation by foundation, each in the order of the plan."""
        pipelines: dict[tuple[str | None, str], list[Portion]] = {}
        for portion in Missing().of_all(works):
            pipelines.setdefault((portion.foundation, portion.dtype), []).append(portion)
        for (foundation, dtype), portions in pipelines.items():
            for prepared in self._pipeline(foundation, dtype, portions):
                if prepared.error is not None:
                    log.warning("%s is not prepared ahead: %s", prepared.portion.name, prepared.error)
                self.done.append(prepared)
        return self.done

    def so_far(self) -> list[Prepared]:
        return list(self.done)

    def _pipeline(self, foundation: str | None, dtype: str, portions: list[Portion]) -> Iterable[Prepared]:
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        share = self.share
        rows: Any = ray.data.from_items(
            [_row(portion) for portion in portions], override_num_blocks=len(portions)
        )
        rows = rows.map(_decode, num_cpus=share.cpus)
        rows = rows.map(
            _Encoder,
            fn_constructor_args=(foundation, dtype, share.device, self.tasks),
            num_cpus=share.encoder_cpus,
            num_gpus=share.gpus or None,
            compute=ray.data.ActorPoolStrategy(size=share.encoders),
        )
        for row in rows.map(_store, num_cpus=share.cpus).iter_rows():
            yield pickle.loads(row["item"])


class Preparing:
    """A running preparation on the cluster."""

    def __init__(self, actor: Any, result: Any) -> None:
        self._actor, self._result = actor, result

    def so_far(self) -> list[Prepared]:
        """The portions that are cached by now or failed, in the order of the plan."""
        import ray

        return ray.get(self._actor.so_far.remote())

    def wait(self, timeout_s: float | None = None) -> list[Prepared] | None:
        """Wait for all portions; None after a timeout. Raises ray.exceptions.RayError if it failed."""
        import ray

        try:
            return ray.get(self._result, timeout=timeout_s)
        except ray.exceptions.GetTimeoutError:
            return None

    def stop(self) -> None:
        """End it and free its resources; cached results stay."""
        import ray

        ray.kill(self._actor)


def prepare_ahead(batch: BatchState, works: Iterable[Work], share: Share | None = None) -> Preparing:
    """Start preparing works on the cluster of the current Ray session; returns at once.

    Args:
        batch: its lanes record what they prepare themselves (exclusive.py).
        works: in the order in which lanes will want them (`Plan.works`).
        share: resources to use beside the lanes (`share_beside`). Default: one CPU for the encoder,
            half a CPU per task.
    """
    import ray

    remote: Any = ray.remote(num_cpus=0, max_concurrency=2)(_Preparer)  # type: ignore[call-overload]
    actor = remote.remote(share or Share(), preparation_tasks(batch, "Ray Data"))
    return Preparing(actor, actor.run.remote(list(works)))
