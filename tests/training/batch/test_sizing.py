"""How many lanes start follows the room, the work, and who is there already."""

from dataclasses import replace

import pytest

from infra.errors import UserError
from infra.registry import open_registry
from infra.storage.leases import Lease
from training.batch.cluster.ray_lanes import Driver
from training.batch.cluster.sizing import (
    MAX_WITHOUT_PROGRESS,
    LaneFailures,
    LaneNow,
    Need,
    Start,
    check_room,
    lane_need,
    places,
    to_start,
)
from training.batch.state.record import Record, workers_of
from training.batch.state.state import open_batch
from training.batch.watch.watcher import LaneState

NOW = 1000.0


def records(*statuses, workers=1, expires=NOW + 60):
    def one(number, status):
        lease = Lease("lane", "t", expires) if status in ("training", "preparing") else None
        work = {"config": {"workers": workers}}
        return Record(f"c{workers}-{number}", work, "h", 0, number, status=status, lease=lease)

    return [one(number, status) for number, status in enumerate(statuses)]


def lanes(busy=0, idle=0, workers=1):
    return [LaneNow(f"l{number}", workers, number < busy) for number in range(busy + idle)]


@pytest.mark.parametrize(
    ("statuses", "there", "room", "limit", "expected"),
    [
        (["queued"] * 8, lanes(), 4, None, [Start(1, 2)] * 4),  # shared out evenly
        (["queued"] * 9, lanes(), 4, None, [Start(1, 3)] * 4),
        (["queued"] * 8, lanes(), 4, 1, [Start(1, 8)]),
        (["queued"] * 2, lanes(), 64, None, [Start(1, 1)] * 2),  # no more lanes than concepts
        (["queued"] * 3, lanes(idle=2), 4, None, [Start(1, 1)]),  # those that begin will take two
        (["queued"] * 3, lanes(busy=2), 2, None, []),  # no room
        (["training"] * 3, lanes(busy=1), 4, None, []),  # nothing is free
        (["training"] * 2 + ["queued"], lanes(busy=1), 2, None, [Start(1, 2)]),
        (["published", "failed", "cancelled"], lanes(), 4, None, []),
        (["queued"] * 4, lanes(busy=3), 2, None, []),  # the cluster shrank below what still runs
    ],
)
def test_lanes_are_started_while_there_is_room_and_work(statuses, there, room, limit, expected):
    assert to_start(records(*statuses), there, room, NOW, limit) == expected


def test_a_dead_lanes_concepts_count_as_waiting():
    orphans = records("training", "training", expires=NOW - 1)
    assert to_start(orphans, [], 4, NOW) == [Start(1, 1)] * 2


def test_a_lane_has_the_workers_that_its_concepts_ask_for():
    mixed = records("queued", "queued", workers=4) + records("queued", "queued", workers="2:8")
    assert to_start(mixed, [], 10, NOW) == [Start(4, 1)] * 2 + [Start(2, 2)]
    asked = {record.name: workers_of(record) for record in mixed}
    check_room(asked, 4, Need(1))
    with pytest.raises(UserError, match=r"a lane for c4-0, c4-1 needs 4 workers .* room for 3"):
        check_room(asked, 3, Need(1))


@pytest.mark.parametrize(
    ("nodes", "cpus", "need", "room"),
    [
        ([{"CPU": 0}, {"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 4}], None, Need(1, 1), 5),
        ([{"CPU": 0}, {"CPU": 4}, {"CPU": 9}], None, Need(4), 3),
        ([{"CPU": 2}], None, Need(2), 1),
        ([{"CPU": 2}, {"CPU": 2}], 1, Need(1), 4),
        ([{"CPU": 0}], None, Need(1), 0),
    ],
)
def test_a_lane_takes_a_gpu_or_a_few_cpus(nodes, cpus, need, room):
    assert lane_need(nodes, cpus) == need
    assert places(nodes, need) == room


def test_lanes_that_die_before_they_hold_anything_are_waited_for_and_given_up():
    failures = LaneFailures()
    for number in range(MAX_WITHOUT_PROGRESS - 1):
        failures.lane_ended(NOW, without_progress=True, reason="no module named x")
        assert failures.until == NOW + 2 ** (number + 1) - 1
    failures.lane_ended(
        NOW, without_progress=False, reason="the node went"
    )  # one that had trained: as if nothing had been
    assert failures.until == NOW
    for _ in range(MAX_WITHOUT_PROGRESS - 1):
        failures.lane_ended(NOW, without_progress=True, reason="no module named x")
    with pytest.raises(UserError, match=r"5 lanes in a row .* no module named x\. Fix"):
        failures.lane_ended(NOW, without_progress=True, reason="no module named x")


def test_lanes_that_fail_while_others_train_are_waited_for_and_do_not_end_the_batch():
    failures = LaneFailures()
    for number in range(2 * MAX_WITHOUT_PROGRESS):
        failures.lane_ended(NOW, without_progress=True, alone=False, reason="no such folder.")
        assert failures.until == NOW + min(60, 2 ** (number + 1) - 1)
    for _ in range(MAX_WITHOUT_PROGRESS - 1):
        failures.lane_ended(NOW, without_progress=True, reason="no such folder.")
    failures.progressed()
    for _ in range(MAX_WITHOUT_PROGRESS - 1):
        failures.lane_ended(NOW, without_progress=True, reason="no such folder.")
    with pytest.raises(UserError, match=r"5 lanes in a row ended without progress .* no such folder\. Fix"):
        failures.lane_ended(NOW, without_progress=True, reason="no such folder.")


class FakeSupervisor:
    """A supervisor's `lane_states`, as a driver calls it."""

    def __init__(self, *lanes):
        self.lanes, self.lane_states = lanes, self

    def remote(self):
        return list(self.lanes)


def test_lanes_that_give_back_what_they_cannot_train_end_the_batch_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr("ray.get", lambda answer: answer)
    registry = open_registry(tmp_path)
    driver = Driver(open_batch(registry.storage, "b"), registry, "b")
    waiting = records("queued")
    driver._note_progress(waiting)

    def fails(name):
        driver.lanes[name] = LaneState(name, 1)
        driver._held.add(name)  # it was seen with a concept, which it gave back
        driver._supervisor = FakeSupervisor(LaneState(name, 1, end="failed", reason="no such folder"))
        driver._update_lanes(Need(1))

    for number in range(MAX_WITHOUT_PROGRESS - 1):
        fails(f"a{number}")
        driver._note_progress(waiting)
    driver._note_progress([replace(waiting[0], checkpoint="checkpoints/c1-0/1")])
    for number in range(MAX_WITHOUT_PROGRESS - 1):
        fails(f"b{number}")
    with pytest.raises(UserError, match="5 lanes in a row"):
        fails("c")
