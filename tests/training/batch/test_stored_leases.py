"""Leases that an earlier version of the program wrote are read, hold, run out and are renewed, in the same words.

`stored/` has a concept's record and two turns, written when records and turns had leases of their own.
"""

import json
from pathlib import Path

import pytest

from infra.storage import open_storage
from training.batch.state.leased_tasks import LeasedTasks
from training.batch.state.record import Claim
from training.batch.state.state import BatchState

STORED = Path(__file__).parents[1] / "stored"
NOW = 1_800_000_000.0  # when they were written
EARLIER = pytest.mark.parametrize("seconds", [True, False], ids=["as-stored", "before-leases-had-a-length"])


def stored(name, seconds):
    """The object, or as it was before a lease said how long it holds: then 60 seconds."""
    told = json.loads((STORED / name).read_text())
    if not seconds:
        del told.get("lease", told)["seconds"]
    return told


@pytest.fixture
def now():
    return [NOW]


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path)


def put(storage, key, told):
    storage.put(key, json.dumps(told, sort_keys=True).encode())


@EARLIER
def test_a_concepts_lease(storage, now, seconds):
    told = stored("concept.json", seconds)
    put(storage, "concepts/a.json", told)
    batch = BatchState(storage, clock=lambda: now[0], lease_s=45.0)
    record = batch.record("a")
    assert (record.status, record.step, record.lease.owner) == ("training", 3, "lane 1")
    assert record.lease.seconds == (90.0 if seconds else 60.0)
    assert batch.claim("other") is None
    claim = Claim("a", told["lease"]["token"], record)
    assert batch.beat(claim, step=4).step == 4
    after = json.loads(storage.get("concepts/a.json"))
    assert after["lease"] == {**told["lease"], "expires": NOW + 45.0, "seconds": 45.0}
    assert after.keys() == told.keys()
    now[0] += 45.0
    assert batch.claim("other").record.lost == 1


@EARLIER
def test_a_turns_lease(storage, now, seconds):
    told = stored("turn-held.json", seconds)
    put(storage, "x.json", told)
    other = LeasedTasks(storage, "other", clock=lambda: now[0])
    mine = LeasedTasks(storage, told["owner"], token=told["token"], clock=lambda: now[0], lease_s=45.0)
    assert other.look("x").seconds == (300.0 if seconds else 60.0)
    assert not other.take("x")
    assert mine.renew("x")
    after = json.loads(storage.get("x.json"))
    assert after == {**told, "expires": NOW + 45.0, "seconds": 45.0}
    now[0] += 45.0
    assert other.take("x")
    assert not mine.done("x", {})


def test_a_turn_that_is_done(storage, now):
    told = stored("turn-done.json", True)
    put(storage, "x.json", told)
    turns = LeasedTasks(storage, told["owner"], token=told["token"], clock=lambda: now[0])
    now[0] += 10_000.0
    assert turns.results({"x"}) == {"x": told["result"]}
    assert not turns.take("x")
    assert not turns.renew("x")
    turns.give_back("x")
    assert json.loads(storage.get("x.json")) == told
