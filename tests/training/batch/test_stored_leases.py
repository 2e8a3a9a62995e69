"""Leases that an earlier version of the program wrote are read, hold, run out and are renewed, in the same words.

`stored/` has a concept's record and two tasks, written when records and tasks had separate lease formats.
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
    before = json.loads((STORED / name).read_text())
    if not seconds:
        del before.get("lease", before)["seconds"]
    return before


@pytest.fixture
def now():
    return [NOW]


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path)


def put(storage, key, before):
    storage.put(key, json.dumps(before, sort_keys=True).encode())


@EARLIER
def test_a_concepts_lease(storage, now, seconds):
    before = stored("concept.json", seconds)
    put(storage, "concepts/a.json", before)
    batch = BatchState(storage, clock=lambda: now[0], lease_s=45.0)
    record = batch.record("a")
    assert (record.status, record.step, record.lease.owner) == ("training", 3, "lane 1")
    assert record.lease.seconds == (90.0 if seconds else 60.0)
    assert batch.claim("other") is None
    claim = Claim("a", before["lease"]["token"], record)
    assert batch.beat(claim, step=4).step == 4
    after = json.loads(storage.get("concepts/a.json"))
    assert after["lease"] == {**before["lease"], "expires": NOW + 45.0, "seconds": 45.0}
    assert after.keys() == before.keys() | {"paused"}  # added since
    now[0] += 45.0
    assert batch.claim("other").record.lost == 1


@EARLIER
def test_a_turns_lease(storage, now, seconds):
    before = stored("turn-held.json", seconds)
    put(storage, "x.json", before)
    other = LeasedTasks(storage, "other", clock=lambda: now[0])
    mine = LeasedTasks(storage, before["owner"], token=before["token"], clock=lambda: now[0], lease_s=45.0)
    assert other.get("x").seconds == (300.0 if seconds else 60.0)
    assert not other.take("x")
    assert mine.renew("x")
    after = json.loads(storage.get("x.json"))
    assert after == {**before, "expires": NOW + 45.0, "seconds": 45.0}
    now[0] += 45.0
    assert other.take("x")
    assert not mine.done("x", {})


def test_a_turn_that_is_done(storage, now):
    before = stored("turn-done.json", True)
    put(storage, "x.json", before)
    tasks = LeasedTasks(storage, before["owner"], token=before["token"], clock=lambda: now[0])
    now[0] += 10_000.0
    assert tasks.results({"x"}) == {"x": before["result"]}
    assert not tasks.take("x")
    assert not tasks.renew("x")
    tasks.give_back("x")
    assert json.loads(storage.get("x.json")) == before
