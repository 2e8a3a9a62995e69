"""Lanes measure their kind of device once for each group of settings, and take the pack that it does best."""

import threading
from dataclasses import replace

import pytest

from infra.errors import OutOfMemory
from motiondirector.batch.lanes import only_kind
from training.batch.profile import measuring as module
from training.batch.profile.measure import measure_curve
from training.batch.profile.measuring import Measuring, kept_profiles
from training.batch.profile.profile import Curve
from training.loop.pack import Pack

NEVER = threading.Event()
TWO_ARE_BEST = Curve(samples=(1, 2, 4), seconds=(1.0, 1.0, 4.0), bytes=(1, 2, 4))


@pytest.fixture
def measured(monkeypatch):
    """The groups that are measured, each with what `answer` holds: a curve, or an error."""

    class Measured(list):
        answer = TWO_ARE_BEST

        def __call__(self, foundation, key, *, memory):
            self.append(str(key.bucket))
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

    made = Measured()
    monkeypatch.setattr(module, "measure_curve", made)
    return made


def test_two_lanes_of_a_kind_measure_once_and_later_ones_read_it(house, house_foundation, monkeypatch):
    made, found = [], {}

    def measure(foundation, key, *, memory):
        made.append(key)
        return measure_curve(foundation, key, memory=memory, sizes=(1, 2))

    monkeypatch.setattr(module, "measure_curve", measure)
    key, storage = house.add("c0")["c0"].key, house.registry.storage

    def lane(owner):
        found[owner] = Measuring(storage, owner, "cpu").profile(house_foundation, key, 2.5, NEVER)

    threads = [threading.Thread(target=lane, args=(owner,)) for owner in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lane("late")
    assert len(made) == 1
    assert found["one"] == found["two"] == found["late"]
    assert found["one"].curve(key).samples == (1, 2)
    assert found["one"].memory > 0
    assert found["one"].load_seconds == 2.5


def test_a_lane_takes_the_pack_that_its_device_does_best(house, measured, monkeypatch):
    house.add("c0", "c1", "c2", "c3", steps=2)
    sizes, step = [], Pack.step
    monkeypatch.setattr(Pack, "step", lambda self: sizes.append(len(self.members)) or step(self))
    house.lane(measuring=Measuring(house.registry.storage, "one", "cpu")).run()
    assert max(sizes) == 2
    assert measured == ["5x32x32"]
    assert set(house.statuses().values()) == {"published"}


def test_what_cannot_be_measured_is_said_and_trained_all_the_same(house, measured, caplog):
    measured.answer = OutOfMemory("one training step of 5x32x32 does not fit.")
    house.add("c0", steps=2)
    house.lane(measuring=Measuring(house.registry.storage, "one", "cpu")).run()
    assert house.statuses() == {"c0": "published"}
    assert "5x32x32 dual could not be measured: one training step of 5x32x32 does not fit." in caplog.text
    assert kept_profiles(house.registry.storage) == []


def test_groups_and_kinds_of_devices_are_measured_apart_and_a_plan_knows_a_single_kind(
    house, house_foundation, measured, monkeypatch
):
    storage, key = house.registry.storage, house.add("c0")["c0"].key
    other = replace(key, rank=8)
    here = Measuring(storage, "here", "cpu")
    assert here.profile(house_foundation, replace(key, zero=3), 1.0, NEVER) is None
    assert only_kind(storage) is None
    for one in (key, other, key):
        here.profile(house_foundation, one, 1.0, NEVER)
    assert len(measured) == 2
    assert [only_kind(storage).curve(one) for one in (key, other)] == [TWO_ARE_BEST, TWO_ARE_BEST]
    monkeypatch.setattr(module, "profile_name", lambda device: "another kind")
    Measuring(storage, "there", "cpu").profile(house_foundation, key, 1.0, NEVER)
    assert len(measured) == 3
    assert len(kept_profiles(storage)) == 2
    assert only_kind(storage) is None


def test_a_damaged_measurement_is_made_again(house, house_foundation, measured, caplog):
    storage, key = house.registry.storage, house.add("c0")["c0"].key
    mine = Measuring(storage, "one", "cpu")
    mine.profile(house_foundation, key, 1.0, NEVER)
    (kept,) = storage.list("profiles/")
    storage.put(kept.key, b"{}")
    assert kept_profiles(storage) == []
    assert mine.profile(house_foundation, key, 1.0, NEVER).curve(key) == TWO_ARE_BEST
    assert len(measured) == 2
    assert "is not a device profile" in caplog.text
    assert len(kept_profiles(storage)) == 1
