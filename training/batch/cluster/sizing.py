"""How many lanes a batch needs and a cluster has room for: plain functions of nodes and records.

    need = lane_need(reachable_nodes())
    for start in to_start(batch.records(), lanes, places(nodes, need), time.time(), limit=None):
        ...

A lane has as many workers as its concepts ask for (`workers`), and trains only concepts with that
number. Lanes are started while there is room for their workers and a concept that no lane takes. They
end when there is no more work for them, and die with their nodes. So their number follows the cluster
and the work, up and down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from infra.errors import InvalidInput, SystemFailure
from infra.ray.cluster import count_fitting
from training.batch.manifest.plan import MOST
from training.batch.state.record import Record, is_free, workers_of
from training.batch.state.work import Work

CPUS = 4  # per worker on machines without GPUs, at most: each lane holds another copy of the base
MAX_WITHOUT_PROGRESS = (
    5  # lanes in a row that ended without progress, with no other lane running: a general problem
)
LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class Need:
    """Resources of a node that one worker of a lane takes."""

    cpus: float
    gpus: float = 0

    def asdict(self) -> dict[str, float]:
        """As Ray's resources."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


@dataclass(frozen=True)
class LaneNow:
    """A running or starting lane."""

    name: str
    workers: int = 1
    busy: bool = False  # holds a concept


@dataclass(frozen=True)
class Start:
    """A lane to start."""

    workers: int
    most: int  # largest pack: the lane's fair share, so that it leaves concepts for the other lanes


def lane_need(nodes: Sequence[Mapping[str, float]], cpus: float | None = None) -> Need:
    """One GPU per worker if the cluster has any; else `cpus` CPUs, by default four or the largest node's."""
    if any(node.get("GPU", 0) > 0 for node in nodes):
        return Need(cpus or 1, 1)
    return Need(cpus or max(1.0, min(CPUS, max((node.get("CPU", 0) for node in nodes), default=1))))


def places(nodes: Sequence[Mapping[str, float]], need: Need) -> int:
    """Number of workers that fit the cluster."""
    return sum(count_fitting(dict(node), need.asdict()) for node in nodes)


def to_start(
    records: Sequence[Record], lanes: Sequence[LaneNow], room: int, now: float, limit: int | None = None
) -> list[Start]:
    """The lanes to start now, in the order of their concepts.

    Args:
        records: of the batch, in the order in which they begin.
        lanes: running and starting lanes.
        room: number of workers that fit the cluster, including those of `lanes`.
        now: UTC seconds.
        limit: largest number of lanes; None: as many as fit.
    """
    open_places = room - sum(lane.workers for lane in lanes)
    open_lanes = (limit or room) - len(lanes)
    starts: list[Start] = []
    for workers in dict.fromkeys(workers_of(record) for record in records if not record.ended):
        active = [r for r in records if not r.ended and not r.paused and workers_of(r) == workers]
        free = sum(is_free(record, now) for record in active)
        alike = [lane for lane in lanes if lane.workers == workers]
        idle = sum(not lane.busy for lane in alike)  # each will take a free concept
        count = min(open_lanes, open_places // workers, free - idle, len(active) - len(alike))
        if count <= 0:
            continue
        share = -(-len(active) // (len(alike) + count))
        starts += [Start(workers, min(share, MOST))] * count
        open_lanes -= count
        open_places -= count * workers
    return starts


def check_room(workers: Mapping[str, int], room: int, need: Need) -> None:
    """Raise InvalidInput ("not_enough_workers") unless the cluster has room for each concept's lane.

    Args:
        workers: number of workers that each concept asks for, by name.
        room: number of workers that fit the cluster.
    """
    asked = max(workers.values(), default=0)
    if asked > room:
        names = [name for name, count in workers.items() if count > room]
        each = f"{need.cpus:g} CPU" + (f" and {need.gpus:g} GPU" if need.gpus else "")
        raise InvalidInput(
            f"a lane for {', '.join(names[:4])}{', ...' * (len(names) > 4)} needs {asked} workers with {each} each, but the "
            f"cluster has room for {room}; connect to a larger cluster (--address), or lower workers or --cpus-per-lane.",
            code="not_enough_workers",
        )


def room_check(nodes: Sequence[Mapping[str, float]], cpus: float | None) -> Callable[[Work], None]:
    """A check for a plan that raises InvalidInput for a work whose lane does not fit these nodes.

    Args:
        cpus: CPUs per worker, as for `lane_need`.
    """
    need = lane_need(nodes, cpus)
    room = places(nodes, need)
    return lambda work: check_room({work.name: work.config.worker_range[0]}, room, need)


@dataclass
class LaneFailures:
    """Counts lanes that died or failed, to decide how long to wait for the next start and when to give up."""

    without_progress: int = 0  # lanes in a row that ended without progress
    alone: int = 0  # those of them that ended while no other lane ran
    until: float = float("-inf")  # start no lane before this time, on the clock of `lane_ended`

    def lane_ended(self, now: float, *, without_progress: bool, alone: bool = True, reason: str) -> None:
        """Count a lane's death. Raises SystemFailure ("lanes_failed") after too many.

        Args:
            now: seconds of a monotonic clock.
            without_progress: the lane made no progress: it never held a concept, or gave all back because it
                could not train here.
            alone: no other lane runs. While others train, lanes failing on one node are no reason to give up.
        """
        self.without_progress = self.without_progress + 1 if without_progress else 0
        self.alone = self.alone + alone if without_progress else 0
        if self.alone >= MAX_WITHOUT_PROGRESS:
            raise SystemFailure(
                f"{self.without_progress} lanes in a row ended without progress on any concept; the reason of the last one: "
                f"{reason[:500].rstrip('.')}. Fix this and run the same command again; nothing is lost.",
                code="lanes_failed",
            )
        self.until = now + min(LONGEST_WAIT_S, 2.0 ** min(self.without_progress, 9) - 1)

    def progressed(self) -> None:
        """A concept made progress: start counting from zero."""
        self.without_progress = self.alone = 0
