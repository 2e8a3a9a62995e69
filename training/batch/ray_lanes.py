"""A batch's lanes on a Ray cluster: orchestration only. Each lane is a Ray Train run of `lane_worker.work`.

    with ray_session(address):
        records = train_on_ray(batch, registry, "b1", limit=None)

The driver watches: it reads the records, and asks its *keeper*, an actor without CPUs, to start lanes where there is
room and work (sizing.py). The keeper waits for each lane's run in a thread. All that lasts is in the batch's records: a
driver or keeper that dies takes its lanes along, their claims run out, and the same command goes on.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from infra.cluster import reachable_nodes
from infra.registry import Registry
from infra.storage import Storage
from training.batch.lane_worker import LINGER_S, LaneSettings
from training.batch.plan import MOST
from training.batch.profile import Profile
from training.batch.sizing import Deaths, LaneNow, Need, Start, check_room, lane_need, places, to_start
from training.batch.state import BatchState, Record
from training.ray_train import RAY_SETTINGS

log = logging.getLogger(__name__)

POLL_S = 5.0
LEAVING_S = 60.0  # for lanes that give back what they hold


@dataclass(frozen=True)
class LaneState:
    """A lane as its keeper knows it."""

    name: str
    workers: int
    host: str = ""  # where it runs; empty while it waits for a place or loads Python
    pid: int = 0
    node: str = ""  # Ray's id
    end: str | None = None  # done, idle, stopped; failed, died
    reason: str | None = None  # of failed and died


class Keeper:
    """An actor: holds the lanes' runs, and tells the lanes when to stop."""

    def __init__(self, need: Need, use_gpu: bool, storage: Storage) -> None:
        os.environ.update({name: os.environ.get(name, value) for name, value in RAY_SETTINGS.items()})
        self.need, self.use_gpu, self.storage = need, use_gpu, storage
        self.lanes: dict[str, LaneState] = {}
        self.all_stop = False

    def start(self, settings: LaneSettings, workers: int) -> None:
        """Start a lane; returns at once."""
        import ray

        me = ray.get_runtime_context().current_actor
        self.lanes[settings.name] = LaneState(settings.name, workers)
        threading.Thread(
            target=self._keep, args=(settings, workers, me), name=settings.name, daemon=True
        ).start()

    def began(self, name: str, host: str, pid: int, node: str) -> None:
        """A lane's worker tells where it is."""
        self.lanes[name] = replace(self.lanes[name], host=host, pid=pid, node=node)

    def look(self) -> list[LaneState]:
        """Every lane; those that ended are told once."""
        found = list(self.lanes.values())
        for lane in found:
            if lane.end is not None:
                del self.lanes[lane.name]
        return found

    def stop(self) -> None:
        """All lanes are to keep and give back what they hold, and end."""
        self.all_stop = True

    def stopping(self, name: str) -> bool:
        """A lane asks."""
        return self.all_stop

    def _keep(self, settings: LaneSettings, workers: int, me: Any) -> None:
        try:
            end = fit(settings, workers, me, self.need, self.use_gpu, self.storage)
        except Exception as error:
            end = {"end": "died", "reason": short(error)}
        self.lanes[settings.name] = replace(
            self.lanes[settings.name], end=end["end"], reason=end.get("reason")
        )


def fit(
    settings: LaneSettings, workers: int, keeper: Any, need: Need, use_gpu: bool, storage: Storage
) -> dict[str, Any]:
    """A lane's run from its start to its end. Raises what ended it."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from training.batch.lane_worker import LaneTorch, work

    own = storage.sub(f"ray/{settings.name}")
    filesystem, path = own.arrow()
    trainer = TorchTrainer(
        work,  # type: ignore[arg-type]
        train_loop_config={"settings": settings, "keeper": keeper},
        torch_config=LaneTorch(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=use_gpu, resources_per_worker=need.asdict()
        ),
        run_config=RunConfig(
            name="train",
            storage_path=path,
            storage_filesystem=filesystem,
            # A lane that died is started again by the driver, where there is room then; Ray would wait for its place.
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),
        ),
    )
    try:
        return trainer.fit().return_value
    finally:
        for info in list(own.list()):  # Ray Train's notes; the batch's state is elsewhere
            own.delete(info.key)


def short(error: BaseException) -> str:
    """The last line of what ended a run."""
    failures = list(getattr(error, "worker_failures", {}).values()) or [error]
    lines = [line.strip() for line in str(failures[0]).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:400]


Look = Callable[[Sequence[Record], Sequence[LaneState]], None]


@dataclass
class Driver:
    """Watches a batch on the cluster of the current `ray_session`, and keeps lanes going."""

    batch: BatchState
    registry: Registry
    name: str  # of the batch
    limit: int | None = None  # of lanes; None: as many as the cluster has room for
    pack: int | None = None
    profile: Profile | None = None
    cpus: float | None = None  # of a lane's worker
    on_look: Look = lambda records, lanes: None
    poll_s: float = POLL_S
    linger_s: float = LINGER_S
    lanes: dict[str, LaneState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._keeper: Any = None
        self._stopping = threading.Event()
        self._token, self._count = uuid.uuid4().hex[:4], 0
        self._deaths, self._held = Deaths(), set[str]()

    def stop(self) -> None:
        """From a signal handler: have the lanes give back what they hold, and return."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def run(self) -> list[Record]:
        """Until every concept of the batch has ended, or `stop`. Returns the records.

        Raises:
            UserError: a concept needs more workers than the cluster has room for (422), lanes die before they hold
                anything (500), the storage is away (503).
        """
        nodes = reachable_nodes()
        need = lane_need(nodes, self.cpus)
        records = self.batch.records()
        check_room(records, places(nodes, need), need)
        try:
            while True:
                self._look(need)
                records = self.batch.records()
                self._held |= {record.lease.owner for record in records if record.lease is not None}
                self.on_look(records, list(self.lanes.values()))
                if self.stopping or all(record.ended for record in records):
                    return self._leave(need)
                now = self.batch.clock()
                if now >= self._deaths.until:
                    for start in self._wanted(records, need, now):
                        self._start(start, need)
                self._stopping.wait(self.poll_s)
        finally:
            if self._keeper is not None:
                import ray

                ray.kill(self._keeper)  # and with it whatever still waits for a place
                self._keeper = None

    def _wanted(self, records: Sequence[Record], need: Need, now: float) -> list[Start]:
        busy = {record.lease.owner for record in records if record.lease is not None and not record.ended}
        lanes = [LaneNow(lane.name, lane.workers, lane.name in busy) for lane in self.lanes.values()]
        return to_start(records, lanes, places(reachable_nodes(), need), now, self.limit)

    def _start(self, start: Start, need: Need) -> None:
        import ray

        if self._keeper is None:
            actor = ray.remote(num_cpus=0, max_concurrency=64)(Keeper).options(
                label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()}
            )
            self._keeper = actor.remote(need, need.gpus > 0, self.batch.storage)
        self._count += 1
        settings = LaneSettings(
            name=f"{self._token}-{self._count}",
            registry=self.registry.uri,
            batch=self.name,
            pack=self.pack,
            most=MOST if self.pack else start.most,
            profile=self.profile,
            threads=max(1, int(need.cpus)),
            lease_s=self.batch.lease_s,
            linger_s=self.linger_s,
        )
        self.lanes[settings.name] = LaneState(settings.name, start.workers)
        ray.get(self._keeper.start.remote(settings, start.workers))

    def _look(self, need: Need) -> None:
        """What became of the lanes."""
        import ray
        from ray.exceptions import RayActorError

        if self._keeper is None:
            return
        try:
            found = ray.get(self._keeper.look.remote())
        except RayActorError as error:
            found = [replace(lane, end="died", reason=short(error)) for lane in self.lanes.values()]
            self._keeper = None
        for lane in found:
            self.lanes[lane.name] = lane
            if lane.end is None:
                continue
            del self.lanes[lane.name]
            if lane.end in ("died", "failed"):
                log.warning("lane %s %s: %s", lane.name, lane.end, lane.reason)
                lapsed = self.batch.lapse(lane.name) if lane.end == "died" else []
                held = bool(lapsed) or lane.name in self._held
                self._deaths.died(self.batch.clock(), held=held, reason=f"{lane.reason}")

    def _leave(self, need: Need) -> list[Record]:
        """Let the lanes end in order."""
        import ray

        if self._keeper is not None:
            ray.get(self._keeper.stop.remote())
            until = time.monotonic() + LEAVING_S
            while any(lane.host for lane in self.lanes.values()) and time.monotonic() < until:
                time.sleep(min(0.5, self.poll_s))
                self._look(need)
        records = self.batch.records()
        self.on_look(records, list(self.lanes.values()))
        return records


def train_on_ray(batch: BatchState, registry: Registry, name: str, **options: Any) -> list[Record]:
    """`Driver(...).run()`, which SIGINT and SIGTERM let end in order; a second Ctrl-C ends at once."""
    from training.batch.run import stopped_by_signals

    driver = Driver(batch, registry, name, **options)
    with stopped_by_signals(driver):
        return driver.run()
