"""How many lanes a batch has use and room for. Plain functions of the cluster's nodes and the batch's records.

    need = lane_need(reachable_nodes())
    for start in to_start(batch.records(), lanes, places(nodes, need), time.time(), limit=None):
        ...

A lane has one worker, or as many as its concepts ask for (`workers`), and trains concepts of that number alone. Lanes
are started while there is a place for their workers and a concept that nobody takes; they end by themselves when there
is nothing more for them, and die with their nodes. So their number follows the cluster and the work, up and down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from infra.cluster import count_fitting
from infra.errors import InvalidInput, SystemFailure
from training.batch.plan import MOST
from training.batch.record import RUNNING, Record
from training.batch.work import Work

CPUS = 4  # of a lane on machines without GPUs, where they have as many: each lane holds the base once more
BARREN = (
    5  # lanes in a row that ended in vain, nobody else being there: then something is wrong with all of them
)
LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class Need:
    """What one worker of a lane takes of a node."""

    cpus: float
    gpus: float = 0

    def asdict(self) -> dict[str, float]:
        """As Ray's resources."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


@dataclass(frozen=True)
class LaneNow:
    """A lane that was started and has not ended."""

    name: str
    workers: int = 1
    busy: bool = False  # holds a concept


@dataclass(frozen=True)
class Start:
    """A lane to start."""

    workers: int
    most: int  # members of its packs: its share, so that no lane takes what others wait for


def lane_need(nodes: Sequence[Mapping[str, float]], cpus: float | None = None) -> Need:
    """A GPU for each worker where the cluster has any, else CPUs: `cpus`, or four, or what the largest node has."""
    if any(node.get("GPU", 0) > 0 for node in nodes):
        return Need(cpus or 1, 1)
    return Need(cpus or max(1.0, min(CPUS, max((node.get("CPU", 0) for node in nodes), default=1))))


def places(nodes: Sequence[Mapping[str, float]], need: Need) -> int:
    """Workers that fit the cluster."""
    return sum(count_fitting(dict(node), need.asdict()) for node in nodes)


def workers_of(record: Record) -> int:
    """Workers of the lanes that may train a concept: what it asks for, of a range the fewest."""
    told = record.work["config"]["workers"]
    return told if isinstance(told, int) else int(str(told).split(":")[0])


def is_free(record: Record, now: float) -> bool:
    """Whether a lane may take it: it waits, or the claim on it ran out, or is of a clock that was ahead."""
    if record.status in RUNNING:
        return record.lease is None or record.lease.is_over(now) or record.lease.is_ahead(now)
    return not record.ended


def to_start(
    records: Sequence[Record], lanes: Sequence[LaneNow], room: int, now: float, limit: int | None = None
) -> list[Start]:
    """The lanes to start now, for those whose concepts come first.

    Args:
        records: of the batch, in the order they are begun.
        lanes: those there are, starting ones among them.
        room: workers that fit the cluster, those of `lanes` included.
        now: UTC seconds.
        limit: of lanes; None: as many as fit.
    """
    open_places = room - sum(lane.workers for lane in lanes)
    open_lanes = (limit or room) - len(lanes)
    starts: list[Start] = []
    for workers in dict.fromkeys(workers_of(record) for record in records if not record.ended):
        active = [r for r in records if not r.ended and workers_of(r) == workers]
        free = sum(is_free(record, now) for record in active)
        alike = [lane for lane in lanes if lane.workers == workers]
        idle = sum(not lane.busy for lane in alike)  # these will take some
        count = min(open_lanes, open_places // workers, free - idle, len(active) - len(alike))
        if count <= 0:
            continue
        share = -(-len(active) // (len(alike) + count))
        starts += [Start(workers, min(share, MOST))] * count
        open_lanes -= count
        open_places -= count * workers
    return starts


def check_room(workers: Mapping[str, int], room: int, need: Need) -> None:
    """Raise unless the cluster can have a lane for every concept (InvalidInput "not_enough_workers").

    Args:
        workers: that each asks for, by name.
        room: for workers in the cluster.
    """
    asked = max(workers.values(), default=0)
    if asked > room:
        names = [name for name, count in workers.items() if count > room]
        each = f"{need.cpus:g} CPU" + (f" and {need.gpus:g} GPU" if need.gpus else "")
        raise InvalidInput(
            f"a lane for {', '.join(names[:4])}{', ...' * (len(names) > 4)} takes {asked} workers, each with {each}; the "
            f"cluster has room for {room}. Attach a larger one (--address), or ask for fewer workers or --cpus-per-lane.",
            code="not_enough_workers",
        )


def room_check(nodes: Sequence[Mapping[str, float]], cpus: float | None) -> Callable[[Work], None]:
    """For a plan: raises InvalidInput for a work whose lane, with so many CPUs a worker, these nodes have no room for."""
    need = lane_need(nodes, cpus)
    room = places(nodes, need)
    return lambda work: check_room({work.name: work.config.worker_range[0]}, room, need)


@dataclass
class Deaths:
    """Lanes that died or failed; how long to wait before the next is started, and when to give up."""

    barren: int = 0  # in a row
    alone: int = 0  # of those, with no other lane
    until: float = float("-inf")  # on the clock of `died`: before this none is started

    def died(self, now: float, *, barren: bool, alone: bool = True, reason: str) -> None:
        """One ended so. Raises SystemFailure ("lanes_failed") when it was one too many.

        Args:
            now: seconds that only grow.
            barren: it brought nothing: it never held a concept, or gave back what it held because it could not train here.
            alone: no other lane runs. One node that lanes fail on is no reason to give up while others train.
        """
        self.barren = self.barren + 1 if barren else 0
        self.alone = self.alone + alone if barren else 0
        if self.alone >= BARREN:
            raise SystemFailure(
                f"{self.barren} lanes in a row ended before they brought a concept further, the last of this: "
                f"{reason[:500].rstrip('.')}. Mend that and give the same command again; nothing is lost.",
                code="lanes_failed",
            )
        self.until = now + min(LONGEST_WAIT_S, 2.0 ** min(self.barren, 9) - 1)

    def went_on(self) -> None:
        """A concept was brought further: what ended before that is in no row with what may come."""
        self.barren = self.alone = 0
