"""An actor without CPUs beside the driver that holds the lanes' Ray Train runs; a thread waits for each.

So a driver can be a client of a remote cluster. It gets the state of all lanes in one call, and ends
all of them, including those still waiting for resources, by ending this actor.
"""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import Any

from infra.ray.cluster import last_line
from infra.storage import Storage
from training.batch.cluster.lane_settings import LaneSettings
from training.batch.cluster.sizing import Need
from training.batch.watch.watcher import LaneState
from training.ray.processes import RAY_SETTINGS
from training.ray.trainer import torch_trainer


class LaneSupervisor:
    """The actor. It holds the lanes' runs and tells the lanes when to stop."""

    def __init__(self, need: Need, use_gpu: bool, storage: Storage) -> None:
        os.environ.update({name: os.environ.get(name, value) for name, value in RAY_SETTINGS.items()})
        self.need, self.use_gpu, self.storage = need, use_gpu, storage
        self.lanes: dict[str, LaneState] = {}
        self.stopping_all = False
        self.stop_reasons: dict[str, str] = {}  # lane -> reason

    def start(self, settings: LaneSettings, workers: int) -> None:
        """Start a lane; returns at once."""
        import ray

        me = ray.get_runtime_context().current_actor
        self.lanes[settings.name] = LaneState(settings.name, workers)
        threading.Thread(
            target=self._run_lane, args=(settings, workers, me), name=settings.name, daemon=True
        ).start()

    def lane_started(self, name: str, host: str, pid: int, node: str) -> None:
        """Called by a lane's worker to report where it runs."""
        self.lanes[name] = replace(self.lanes[name], host=host, pid=pid, node=node)

    def lane_states(self) -> list[LaneState]:
        """The states of all lanes that were started here."""
        return list(self.lanes.values())

    def stop_all(self) -> None:
        """Tell all lanes to checkpoint and give back their concepts, and end."""
        self.stopping_all = True

    def stop_lane(self, name: str, reason: str) -> None:
        """Called when one of a lane's workers must stop: the whole lane then stops."""
        self.stop_reasons.setdefault(name, f"one of its workers must stop: {reason}")

    def stop_reason(self, name: str) -> str | None:
        """Called by a lane: the reason why it should stop; None if it should not."""
        return "the batch is stopping" if self.stopping_all else self.stop_reasons.get(name)

    def _run_lane(self, settings: LaneSettings, workers: int, me: Any) -> None:
        try:
            end = run_lane(settings, workers, me, self.need, self.use_gpu, self.storage)
        except Exception as error:
            end = {"end": "died", "reason": last_line(error)}
        self.lanes[settings.name] = replace(
            self.lanes[settings.name], end=end["end"], reason=end.get("reason")
        )


def run_lane(
    settings: LaneSettings, workers: int, supervisor: Any, need: Need, use_gpu: bool, storage: Storage
) -> dict[str, Any]:
    """Run a lane from start to end. Raises the error that ended it."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    from training.batch.cluster.lane_worker import work
    from training.batch.cluster.signals import LaneTorch

    own = storage.sub(f"ray/{settings.name}")
    filesystem, path = own.arrow()
    trainer = torch_trainer(
        work,
        train_loop_config={"settings": settings, "supervisor": supervisor},
        torch_config=LaneTorch(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=use_gpu, resources_per_worker=need.asdict()
        ),
        run_config=RunConfig(
            name="train",
            storage_path=path,
            storage_filesystem=filesystem,
            # The driver starts a new lane wherever there is room. Ray would wait for the lost node.
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),  # type: ignore[call-arg]
        ),
    )
    try:
        return trainer.fit().return_value
    finally:
        for info in list(own.list()):  # Ray Train's files; the batch's state is elsewhere
            own.delete(info.key)
