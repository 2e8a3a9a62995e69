"""Efficiency of lanes that share a batch: 1 to 64 simulated lanes with the real records, claims, leases and sizing.

    python benchmarks/lanes.py [--lanes 1,4,16,64] [--per-lane 32] [--seed 0]

Time is simulated and nothing is trained: a pack's step takes as long as a profile would say. The decisions are real:
`BatchState` (in an in-memory storage), `to_start`, shares, checkpoints, the driver's checks of the lanes. Some lanes die
without warning; others get notice and release their concepts. Efficiency is the time that lanes with full packs would need
without failures, loading and waiting, divided by the time until the last concept ended.
"""

from __future__ import annotations

import argparse
import bisect
import functools
import heapq
import itertools
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from infra.storage import ObjectInfo, ObjectNotFound
from infra.storage.leases import LeaseLost
from training.batch.cluster.sizing import LaneNow, to_start
from training.batch.manifest.plan import DEFAULT_PACK
from training.batch.state.record import Claim, Record, is_free
from training.batch.state.state import BatchState
from training.batch.state.work import Work
from training.config import make_config

FIXED_S, EACH_S = 0.30, 0.10  # seconds of a pack's step: fixed, and per member
BEGIN_S = 60.0  # starting Ray and Python, loading the model
# Seconds that a pack waits. Latents are prepared in the background, and checkpoints are written during the steps.
PREPARE_S, PUBLISH_S, CHECKPOINT_S = 0.3, 1.0, 0.05
BLOCK = 10  # steps between two checks of the simulated world
INTERVAL = 50  # steps between two checkpoints
BEAT_S, CLAIM_S, POLL_S, LINGER_S = 20.0, 10.0, 5.0, 60.0
STEPS = (200, 1200)  # of a concept: uniform
DIES_S, PREEMPTED_S = 3 * 3600.0, 3 * 3600.0  # mean seconds until a lane dies, and until it gets notice


class Memory:
    """An in-memory storage with the operations that a batch's state uses."""

    uri = "memory"

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, ObjectInfo]] = {}
        self._keys: list[str] = []  # sorted, because every claim of every lane lists them
        self._count = itertools.count()
        self._when = datetime.now(UTC)

    def get(self, key: str) -> bytes:
        if key not in self.objects:
            raise ObjectNotFound(key)
        return self.objects[key][0]

    def head(self, key: str) -> ObjectInfo | None:
        return self.objects[key][1] if key in self.objects else None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        for key in self._keys[bisect.bisect_left(self._keys, prefix) :]:
            if not key.startswith(prefix):
                return
            yield self.objects[key][1]

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self.replace_if(key, data, None)

    def replace_if(self, key: str, data: bytes, etag: str | None) -> bool:
        if (self.objects[key][1].etag if key in self.objects else None) != etag:
            return False
        if key not in self.objects:
            bisect.insort(self._keys, key)
        self.objects[key] = data, ObjectInfo(key, len(data), str(next(self._count)), self._when)
        return True


@dataclass
class World:
    """Simulated time and events."""

    now: float = 0.0
    events: list[tuple[float, int, Any]] = field(default_factory=list)
    _count: Iterator[int] = field(default_factory=itertools.count)

    def clock(self) -> float:
        return self.now

    def spawn(self, process: Iterator[float]) -> None:
        heapq.heappush(self.events, (self.now, next(self._count), process))

    def run(self) -> None:
        while self.events:
            self.now, _, process = heapq.heappop(self.events)
            pause = next(process, None)
            if pause is not None:
                heapq.heappush(self.events, (self.now + pause, next(self._count), process))


@dataclass
class Lane:
    """The driver's view of a lane."""

    name: str
    dies_at: float
    notice_at: float
    end: str | None = None


@dataclass
class Counts:
    deaths: int = 0
    notices: int = 0
    lanes: int = 0
    steps: int = 0  # trained, including lost ones


def lane_process(lane: Lane, state: BatchState, world: World, counts: Counts, most: int) -> Iterator[float]:
    """`training.batch.lane.lane.Lane` and `lane_worker.run_until_idle`, with sleeping instead of training."""
    held: dict[str, tuple[Claim, int, int]] = {}  # name -> (claim, step, steps)
    last_claim = beaten = idle = world.now
    yield BEGIN_S
    while True:
        if world.now >= lane.dies_at:
            lane.end = "died"
            return
        if world.now >= lane.notice_at:
            for claim, step, _ in held.values():
                yield CHECKPOINT_S
                state.checkpointed(claim, step, str(step))
                state.release(claim)
            lane.end = "stopped"
            return
        if len(held) < most and (not held or world.now - last_claim >= CLAIM_S or last_claim == 0):
            last_claim = world.now
            while len(held) < most and (claim := state.claim(lane.name)) is not None:
                held[claim.name] = claim, claim.record.checkpoint_step, claim.record.steps
                yield PREPARE_S
        if not held:
            if world.now - idle > LINGER_S or all(record.ended for record in state.records()):
                lane.end = "idle"
                return
            yield POLL_S
            continue
        block = min(BLOCK, *(steps - step for _, step, steps in held.values()))
        yield block * (FIXED_S + EACH_S * len(held))
        if world.now >= lane.dies_at:
            continue
        idle = world.now
        counts.steps += block * len(held)
        beat = world.now - beaten >= BEAT_S
        beaten = world.now if beat else beaten
        for name, (claim, step, steps) in list(held.items()):
            try:
                step += block
                held[name] = claim, step, steps
                if step == steps:
                    yield PUBLISH_S
                    state.publish(claim, f"{name}@1", step=step)
                    del held[name]
                    last_claim = 0
                elif step // INTERVAL > (step - block) // INTERVAL:
                    yield CHECKPOINT_S
                    state.checkpointed(claim, step, str(step))
                elif beat:
                    state.beat(claim, step=step)
            except LeaseLost:
                held.pop(name, None)


def driver_process(
    state: BatchState, world: World, room: int, counts: Counts, dice: random.Random, make: Any
) -> Iterator[float]:
    """A simulation of `training.batch.cluster.ray_lanes.Driver`."""
    lanes: list[Lane] = []
    while True:
        for lane in [lane for lane in lanes if lane.end is not None]:
            lanes.remove(lane)
            counts.deaths += lane.end == "died"
            counts.notices += lane.end == "stopped"
            if lane.end == "died":
                state.lapse(lane.name)
        records = state.records()
        if all(record.ended for record in records):
            return
        busy = {record.lease.owner for record in records if record.lease is not None}
        if len(lanes) < room and any(is_free(record, world.now) for record in records):
            there = [LaneNow(lane.name, busy=lane.name in busy) for lane in lanes]
            for start in to_start(records, there, room, world.now):
                counts.lanes += 1
                lane = Lane(
                    f"l{counts.lanes}",
                    world.now + dice.expovariate(1 / DIES_S),
                    world.now + dice.expovariate(1 / PREEMPTED_S),
                )
                lanes.append(lane)
                world.spawn(lane_process(lane, make(), world, counts, min(start.most, DEFAULT_PACK)))
        yield POLL_S


def simulate(lanes: int, per_lane: int, seed: int) -> tuple[float, float, Counts, int]:
    """(ideal seconds, seconds, events, requested steps) of one batch. Raises unless each concept ended once."""
    dice = random.Random(seed)
    world, counts, memory = World(), Counts(), Memory()

    def make() -> BatchState:
        return BatchState(memory, clock=world.clock)  # type: ignore[arg-type]

    lengths = sorted((dice.randint(*STEPS) for _ in range(lanes * per_lane)), reverse=True)  # as in the plan
    works = [
        Work(f"c{n:05}", "c", "/clips", "d" * 64, 1, None, "f" * 64, config(steps))
        for n, steps in enumerate(lengths)
    ]
    state = make()
    state.add(works)
    last: dict[str, float] = {}
    publish = BatchState.publish

    def watched(self: BatchState, claim: Claim, *arguments: Any, **options: Any) -> Any:
        record = publish(self, claim, *arguments, **options)
        assert claim.name not in last, f"{claim.name} was published twice"
        last[claim.name] = world.now
        return record

    BatchState.publish = watched  # type: ignore[method-assign]
    # Every lane reads every changed record. Without the cache, decoding the same bytes would dominate the simulation.
    decode = Record.decode
    Record.decode = functools.lru_cache(10**5)(decode)  # type: ignore[method-assign]
    try:
        world.spawn(driver_process(make(), world, lanes, counts, dice, make))
        world.run()
    finally:
        BatchState.publish, Record.decode = publish, decode  # type: ignore[method-assign]
    assert last.keys() == {work.name for work in works}
    assert {record.status for record in state.records()} == {"published"}
    ideal = sum(lengths) * (FIXED_S / DEFAULT_PACK + EACH_S) / lanes
    return ideal, max(last.values()), counts, sum(lengths)


def config(steps: int, made: dict[int, Any] = {}) -> Any:  # noqa: B006
    if steps not in made:
        made[steps] = make_config(
            {"frames": 4, "height": 32, "width": 32, "steps": steps, "max_failures": 10}
        )
    return made[steps]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lanes", default="1,4,16,64")
    parser.add_argument("--per-lane", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("| lanes | concepts | hours | efficiency | lanes died | got notice | steps lost | simulated in |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for lanes in map(int, given.lanes.split(",")):
        began = time.perf_counter()
        ideal, took, counts, steps = simulate(lanes, given.per_lane, given.seed)
        lost = counts.steps / steps - 1
        print(
            f"| {lanes} | {lanes * given.per_lane} | {took / 3600:.2f} | {ideal / took:.1%} | {counts.deaths} | "
            f"{counts.notices} | {lost:.2%} | {time.perf_counter() - began:.0f} s |",
            flush=True,
        )


if __name__ == "__main__":
    main()
