"""Orchestrates a batch's lanes on a Ray cluster. Each lane is a Ray Train run of `lane_worker.work`.

    with ray_session(address):
        records = train_on_ray(batch, registry, "b1", limit=None)

The driver reads the records and asks its keeper (keeper.py) to start lanes while there is room and work
(sizing.py). All persistent state is in the batch's records. If the driver or keeper dies, its lanes die
too and their claims expire; the same command then continues the batch.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from infra.errors import InvalidInput
from infra.ray.cluster import has_gpus, last_line, reachable_nodes, this_node
from infra.registry import Registry
from training.batch.cluster.keeper import Keeper
from training.batch.cluster.lane_settings import LINGER_S, LaneSettings
from training.batch.cluster.sizing import (
    Deaths,
    LaneNow,
    Need,
    Start,
    check_room,
    lane_need,
    places,
    to_start,
)
from training.batch.manifest.plan import MOST
from training.batch.profile.profile import Profile
from training.batch.state.outage import Outage
from training.batch.state.record import Record, workers_of
from training.batch.state.state import BatchState
from training.batch.state.work import Work
from training.batch.watch.live_view import Look
from training.batch.watch.validation import Validate, Validating
from training.batch.watch.watcher import LaneState

log = logging.getLogger(__name__)

POLL_S = 5.0
LEAVING_S = 60.0  # time for lanes to give back their concepts


@dataclass
class Driver:
    """Watches a batch on the cluster of the current `ray_session`, and keeps lanes going."""

    batch: BatchState
    registry: Registry
    name: str  # of the batch
    limit: int | None = None  # largest number of lanes; None: as many as the cluster has room for
    pack: int | None = None
    profile: Profile | None = None
    measure: bool = False  # lanes measure their devices to choose the pack size (measuring.py)
    cpus: float | None = None  # CPUs of a lane's worker
    ahead: bool = True  # whether lanes prepare waiting concepts; False if the cluster does (ray_prepare.py)
    on_look: Look = lambda records, lanes: None
    poll_s: float = POLL_S
    linger_s: float = LINGER_S
    lanes: dict[str, LaneState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from training.reporting.metrics import EndMetrics

        self._keeper: Any = None
        self._ended = EndMetrics()
        self._stopping = threading.Event()
        self._token, self._count = uuid.uuid4().hex[:4], 0
        self._deaths, self._held = Deaths(), set[str]()
        self._far: dict[
            str, tuple[bool, str | None]
        ] = {}  # progress of each concept: (ended, key of its checkpoint)

    def stop(self) -> None:
        """Called from a signal handler: make the lanes give back their concepts, and `run` return."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def run(self) -> list[Record]:
        """Run until every concept of the batch has ended, or `stop` is called. Returns the records.

        Raises:
            InvalidInput: a concept needs more workers than the cluster has room for.
            SystemFailure: lanes keep ending without progress; or (Unavailable) the storage stays unavailable.
        """
        nodes = reachable_nodes()
        need = lane_need(nodes, self.cpus)
        records = self.batch.records()
        asked = {record.name: workers_of(record) for record in records if not record.ended}
        check_room(asked, places(nodes, need), need)
        outage = Outage()
        try:
            while True:
                with outage.passing():
                    self._look(need)
                    records = self.batch.records()
                    self._hear(records)
                    self._held |= {record.lease.owner for record in records if record.lease is not None}
                    self._tell(records)
                    if self.stopping or all(record.ended for record in records):
                        return self._leave(need)
                    if time.monotonic() >= self._deaths.until:
                        for start in self._wanted(records, need, self.batch.clock()):
                            self._start(start, need)
                self._stopping.wait(self.poll_s)
        finally:
            if self._keeper is not None:
                import ray

                ray.kill(self._keeper)  # also ends lanes that still wait for resources
                self._keeper = None

    def _wanted(self, records: Sequence[Record], need: Need, now: float) -> list[Start]:
        busy = {record.lease.owner for record in records if record.lease is not None and not record.ended}
        lanes = [LaneNow(lane.name, lane.workers, lane.name in busy) for lane in self.lanes.values()]
        return to_start(records, lanes, places(reachable_nodes(), need), now, self.limit)

    def _start(self, start: Start, need: Need) -> None:
        import ray

        if self._keeper is None:
            actor: Any = ray.remote(num_cpus=0, max_concurrency=64, label_selector=this_node())(Keeper)  # type: ignore[call-overload]
            self._keeper = actor.remote(need, need.gpus > 0, self.batch.storage)
        self._count += 1
        settings = LaneSettings(
            name=f"{self._token}-{self._count}",
            registry=self.registry.uri,
            batch=self.name,
            pack=self.pack,
            most=MOST if self.pack else start.most,
            profile=self.profile,
            measure=self.measure,
            threads=max(1, int(need.cpus)),
            ahead=self.ahead,
            lease_s=self.batch.lease_s,
            linger_s=self.linger_s,
        )
        self.lanes[settings.name] = LaneState(settings.name, start.workers)
        ray.get(self._keeper.start.remote(settings, start.workers))

    def _look(self, need: Need) -> None:
        """Update the lanes' states, and count those that died or failed."""
        import ray
        from ray.exceptions import RayActorError

        if self._keeper is None:
            return
        try:
            found = ray.get(self._keeper.look.remote())
        except RayActorError as error:
            found = [replace(lane, end="died", reason=last_line(error)) for lane in self.lanes.values()]
            self._keeper = None
        for lane in found:
            if lane.name not in self.lanes:  # its end was seen before
                continue
            self.lanes[lane.name] = lane
            if lane.end is None:
                continue
            del self.lanes[lane.name]
            if lane.end in ("died", "failed"):
                log.warning("lane %s %s: %s", lane.name, lane.end, lane.reason)
                # A lane that died leaves concepts, which count the loss; one that failed gave them back.
                lapsed = self.batch.lapse(lane.name) if lane.end == "died" else []
                held = bool(lapsed) or (lane.end == "died" and lane.name in self._held)
                others = any(other.host for other in self.lanes.values())
                self._deaths.died(
                    time.monotonic(), barren=not held, alone=not others, reason=f"{lane.reason}"
                )

    def _hear(self, records: Sequence[Record]) -> None:
        """Note whether any concept made progress."""
        far = {record.name: (record.ended, record.checkpoint) for record in records}
        if far != self._far:
            self._far = far
            self._deaths.went_on()

    def _leave(self, need: Need) -> list[Record]:
        """Let the lanes end in order. Returns the records."""
        import ray

        if self._keeper is not None:
            ray.get(self._keeper.stop.remote())
            until = time.monotonic() + LEAVING_S
            while any(lane.host for lane in self.lanes.values()) and time.monotonic() < until:
                time.sleep(min(0.5, self.poll_s))
                self._look(need)
        records = self.batch.records()
        self._tell(records)
        return records

    def _tell(self, records: Sequence[Record]) -> None:
        for record in records:
            if record.ended:
                self._ended(record.name, record.status)
        self.on_look(records, list(self.lanes.values()))


def check_encoder(gpus: float | None, nodes: Sequence[Mapping[str, float]]) -> None:
    """Raise InvalidInput if a part of a GPU is asked for and these nodes have no GPU."""
    if gpus and not any(node.get("GPU", 0) > 0 for node in nodes):
        raise InvalidInput(
            f"--encoder-gpus {gpus:g}: the cluster has no GPUs, and each lane encodes what it takes on its CPUs; leave it out.",
            code="no_gpus",
        )


def train_on_ray(
    batch: BatchState,
    registry: Registry,
    name: str,
    *,
    works: Sequence[Work] = (),
    validate: Validate | None = None,
    limit: int | None = None,
    encoder_gpus: float | None = None,
    **options: Any,
) -> list[Record]:
    """`Driver(...).run()`; SIGINT and SIGTERM end it in order, a second Ctrl-C at once.

    Args:
        works: the works in the lanes' order. Their latents are prepared ahead if lanes leave the CPUs
            free (they train on GPUs); otherwise each lane prepares its own while it trains.
        validate: validates published versions in a child process.
        limit: largest number of lanes.
        encoder_gpus: GPUs for preparing latents ahead; 0: use a CPU. None: half a GPU, if no lane needs it.
    """
    import ray

    from training.batch.latents.ray_prepare import prepare_ahead, share_beside
    from training.batch.run import stopped_by_signals

    preparing = None
    if works and has_gpus():
        free = ray.available_resources().get("GPU", 0.0)
        preparing = prepare_ahead(batch, works, share_beside(works, limit, free, encoder_gpus))
    driver = Driver(batch, registry, name, limit, ahead=preparing is None, **options)
    beside = nullcontext() if validate is None else Validating(batch, registry, validate)
    try:
        with stopped_by_signals(driver), beside as validating:
            records = driver.run()
            if validating is not None and not driver.stopping:
                validating.finish(lambda: driver.stopping)
            return records
    finally:
        if preparing is not None:
            preparing.stop()
