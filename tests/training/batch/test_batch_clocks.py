"""A clock that was a day ahead and is right again keeps no concept of a batch, no turn, no log and no metric until that day."""

import os
from datetime import UTC, datetime, timedelta

import pytest
from clip_sets import sliding_clips, write_set

from datasets.clip_sets.clips import STAGING
from datasets.clip_sets.parquet import settle
from infra.registry import open_registry
from infra.storage import open_storage
from infra.storage.leases import LEASE_S
from training.batch.cluster.sizing import LaneNow, to_start
from training.batch.state.leased_tasks import LeasedTasks
from training.batch.state.record import RUNNING
from training.batch.state.state import BatchState
from training.batch.state.work import Work
from training.batch.watch.logs import KEPT, Journal, Reader
from training.config import make_config

NOW, DAY = 1_800_000_000.0, 86_400.0
A = Work(
    "a", "a", "/clips", "d" * 64, 1, None, "f" * 64, make_config({"frames": 4, "height": 32, "width": 32})
)


class Clock:
    def __init__(self, now=NOW):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def batch(tmp_path, clock):
    state = BatchState(open_storage(tmp_path / "batch"), clock=clock)
    state.create({})
    state.add([A])
    return state


@pytest.fixture
def claimed_ahead(batch):
    """The claim of a lane whose clock is a day ahead."""
    return BatchState(batch.storage, clock=Clock(NOW + DAY)).claim("lane of tomorrow")


def test_a_dead_lanes_concept_is_taken_a_lease_later_not_a_day(batch, clock, claimed_ahead):
    assert batch.claim("other") is None  # its lane may live
    clock.now += LEASE_S / 2
    assert batch.claim("other") is None
    clock.now += LEASE_S / 2
    claim = batch.claim("other")
    assert (claim.name, claim.record.lost) == ("a", 1)


def test_a_lane_that_lives_keeps_its_concept_through_the_correction(batch, clock, claimed_ahead):
    assert batch.claim("other") is None
    alive = BatchState(batch.storage, clock=clock)  # its clock was corrected
    for _ in range(3):
        clock.now += LEASE_S / 2
        assert alive.beat(claimed_ahead, step=1).status == "training"
        assert batch.claim("other") is None


def test_what_a_clock_that_was_ahead_has_claimed_is_a_reason_for_a_lane(batch, clock, claimed_ahead):
    """Nobody else would shorten its claim."""
    (record,) = batch.records()
    assert record.status in RUNNING
    assert [start.workers for start in to_start([record], [], 1, clock())] == [1]
    assert to_start([record], [LaneNow("l", 1)], 2, clock()) == []
    batch.claim("other")
    assert to_start(batch.records(), [], 1, clock()) == []  # claimed as any


def test_a_longer_lease_is_none_of_a_clock_that_was_ahead(batch, clock):
    patient = BatchState(batch.storage, clock=clock, lease_s=10 * LEASE_S)
    assert patient.claim("patient") is not None
    assert batch.claim("other") is None
    clock.now += 9 * LEASE_S
    assert batch.claim("other") is None
    clock.now += LEASE_S
    assert batch.claim("other") is not None


def test_a_turn_is_free_a_lease_later_not_a_day(tmp_path, clock):
    storage = open_storage(tmp_path / "turns")
    tomorrow = LeasedTasks(storage, "of tomorrow", clock=Clock(NOW + DAY), lease_s=5 * LEASE_S)
    mine = LeasedTasks(storage, "me", clock=clock)
    assert tomorrow.take("x")
    assert not mine.take("x")
    clock.now += 4 * LEASE_S
    assert not mine.take("x")
    tomorrow.clock = clock  # it lives, and its clock was corrected
    assert tomorrow.renew("x")
    clock.now += 5 * LEASE_S
    assert mine.take("x")
    assert not tomorrow.done("x", {})


def test_who_has_a_turn_can_say_that_it_is_done_while_another_shortens_it(tmp_path, clock, monkeypatch):
    storage = open_storage(tmp_path / "turns")
    tomorrow = LeasedTasks(storage, "of tomorrow", clock=Clock(NOW + DAY))
    assert tomorrow.take("x")
    head, asked = type(storage).head, []

    def shortened_meanwhile(self, key):
        found = head(self, key)
        if not asked:
            asked.append(key)
            assert not LeasedTasks(storage, "other", clock=clock).take("x")
        return found

    monkeypatch.setattr(type(storage), "head", shortened_meanwhile)
    assert tomorrow.done("x", {"made": 1})
    assert tomorrow.get("x").result == {"made": 1}


def test_new_lines_of_a_log_are_kept_though_those_of_tomorrow_come_first(tmp_path, clock, monkeypatch):
    monkeypatch.setattr("training.batch.watch.logs.FULL", 1)  # an object a line
    storage = open_storage(tmp_path / "batch")
    tomorrow, today = (Journal(storage, name, clock=c) for name, c in (("l", Clock(NOW + DAY)), ("l", clock)))
    for journal, text in ((tomorrow, "of tomorrow"), (today, "of today")):
        for number in range(KEPT):
            journal.write(f"{text} {number}", "a")
            journal.flush()
            journal.clock.now += 1
    assert {line.text for line in Reader(storage).new("concepts", "a")} == {
        f"of today {n}" for n in range(KEPT)
    }


def test_what_is_measured_last_counts_though_another_was_measured_tomorrow(tmp_path, monkeypatch):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"one")
    registry = open_registry(tmp_path / "registry")
    version = registry.publish("orbit", folder, metadata={})
    for number, at in enumerate((NOW + DAY, NOW, NOW + 1, NOW - DAY)):
        monkeypatch.setattr("infra.registry.time.time_ns", lambda at=at: int(at * 1e9))
        registry.add_metrics(version, {"motion": number})
        assert registry.resolve("orbit").metrics["motion"] == number


@pytest.mark.parametrize("ahead", [timedelta(days=3), timedelta(0)])
def test_shards_of_an_ingest_under_way_stay_when_this_machines_clock_is_ahead(tmp_path, monkeypatch, ahead):
    """An S3 server's clock is right: it has the times of the objects."""
    write_set(tmp_path / "set", *sliding_clips("orbit", 1))
    shard = tmp_path / "set" / STAGING / f"clips-{'0' * 64}.parquet"
    shard.parent.mkdir(exist_ok=True)
    shard.write_bytes(b"of an ingest under way")

    class Ahead(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + ahead

    monkeypatch.setattr("datasets.clip_sets.parquet.datetime", Ahead)
    settle(open_storage(tmp_path / "set"))
    assert shard.exists()
    old = (datetime.now(UTC) - timedelta(days=2)).timestamp()
    os.utime(shard, (old, old))
    settle(open_storage(tmp_path / "set"))
    assert not shard.exists()
