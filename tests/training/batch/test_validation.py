"""Validation of a batch's versions: each once, whoever does it or dies of it, and no concept's failure."""

import os
import threading
import time
from pathlib import Path

import pytest

from infra.errors import StorageAway, UserError
from infra.registry import open_registry
from training.batch.state.state import open_batch
from training.batch.state.work import Work
from training.batch.watch.validation import (
    Stopped,
    Validating,
    Validator,
    headline,
    validation_task,
    validations,
)
from training.config import make_config


class House:
    """A registry, and a batch in it that published these concepts."""

    def __init__(self, folder, *names):
        self.registry = open_registry(folder / "registry")
        self.batch = open_batch(self.registry.storage, "b")
        self.folder = folder
        self.publish(*names)

    def publish(self, *names):
        config = make_config({"frames": 4, "height": 32, "width": 32, "steps": 10})
        adapter = self.folder / "adapter"
        adapter.mkdir(exist_ok=True)
        (adapter / "adapter_model.safetensors").write_bytes(b"adapter")
        self.batch.add(Work(n, n, "/clips", "d" * 64, 1, None, "f" * 64, config) for n in names)
        for name in names:
            claim = self.batch.claim("lane")
            version = self.registry.publish(name, adapter, metadata={})
            self.batch.publish(claim, version.ref, step=10)

    def validator(self, validate):
        return Validator(open_batch(self.registry.storage, "b"), self.registry, validate)

    def found(self):
        return validations(self.batch, self.batch.records())


@pytest.fixture
def house(tmp_path):
    return House(tmp_path, "a", "b")


def score(version, on_progress):
    on_progress("ours", 0, 1)
    return {"fidelity": 0.5 + version.number}


def forever():
    return False


def at_once():
    return True


def test_what_is_published_is_validated_once_and_told(house):
    seen = []

    def validate(version, on_progress):
        seen.append(version.ref)
        return score(version, on_progress)

    house.validator(validate).run(forever, at_once)
    house.validator(validate).run(forever, at_once)
    assert seen == ["a@1", "b@1"]
    found = house.found()
    assert {name: (one["version"], one["scores"], one["error"]) for name, one in found.items()} == {
        "a": ("a@1", {"fidelity": 1.5}, None),
        "b": ("b@1", {"fidelity": 1.5}, None),
    }
    house.publish("c")
    house.validator(validate).run(forever, at_once)
    assert seen[2:] == ["c@1"]


def test_a_validation_that_fails_is_told_and_the_concept_stays_published(house):
    def validate(version, on_progress):
        if version.concept == "a":
            raise UserError("no clips at /clips.")
        raise ZeroDivisionError("division by zero")

    house.validator(validate).run(forever, at_once)
    assert {name: one["error"] for name, one in house.found().items()} == {
        "a": "no clips at /clips.",
        "b": "ZeroDivisionError: division by zero",
    }
    assert {record.status for record in house.batch.records()} == {"published"}


def test_a_storage_that_is_away_for_a_moment_costs_no_validation(house, monkeypatch):
    monkeypatch.setattr("training.batch.watch.validation.POLL_S", 0.01)
    away = [True]

    def validate(version, on_progress):
        if away and away.pop():
            raise StorageAway("the storage is away.")
        return score(version, on_progress)

    house.validator(validate).run(forever, at_once)
    assert {one["error"] for one in house.found().values()} == {None}


def test_two_that_validate_share_the_work(house):
    seen, both = [], threading.Barrier(2)

    def validate(version, on_progress):
        seen.append(version.ref)
        both.wait(30)  # neither is through before both have begun
        return {}

    threads = [
        threading.Thread(target=house.validator(validate).run, args=(forever, at_once)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(seen) == ["a@1", "b@1"]


def test_stopped_it_gives_back_what_it_was_at(house):
    stop = threading.Event()

    def validate(version, on_progress):
        stop.set()
        with pytest.raises(Stopped):
            on_progress("ours", 1, 4)
        on_progress("ours", 2, 4)

    house.validator(validate).run(stop.is_set, forever)
    assert house.found() == {}
    house.validator(score).run(forever, at_once)
    assert set(house.found()) == {"a", "b"}


def dies_of_a(version, on_progress):
    """As of no memory."""
    if version.concept == "a":
        os._exit(9)
    return {"pid": float(os.getpid()), "nice": float(os.nice(0))}


def test_its_process_may_die_of_one_and_goes_on_with_the_others(house):
    with Validating(house.batch, house.registry, dies_of_a) as validating:
        validating.finish()
    found = house.found()
    assert "the validation process ended with code 9" in found["a"]["error"]
    assert found["b"]["scores"]["pid"] != os.getpid()
    assert found["b"]["scores"]["nice"] >= 10


def hangs(version, on_progress):
    Path(version.metadata["mark"]).touch()
    while True:
        on_progress("ours", 0, 1)
        time.sleep(0.02)


def test_left_early_it_lets_go(tmp_path):
    house = House(tmp_path)
    config = make_config({"frames": 4, "height": 32, "width": 32, "steps": 10})
    house.batch.add([Work("a", "a", "/clips", "d" * 64, 1, None, "f" * 64, config)])
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"adapter")
    mark = tmp_path / "begun"
    version = house.registry.publish("a", tmp_path / "adapter", metadata={"mark": str(mark)})
    house.batch.publish(house.batch.claim("lane"), version.ref, step=10)
    with Validating(house.batch, house.registry, hangs) as validating:
        validating.finish(stopping=mark.exists)
        assert mark.exists()
    validator = house.validator(score)
    assert validator.tasks.get(validation_task(house.batch.record("a"))) is None
    validator.run(forever, at_once)
    assert house.found()["a"]["error"] is None


def test_a_table_tells_motion_and_appearance_first_and_what_there_is_without_them():
    scores = {"appearance leakage": 0.125, "colour diversity": 0.5, "motion fidelity": 0.914}
    assert headline(scores) == "motion fidelity 0.91, appearance leakage 0.12"
    assert headline({"warping error": 0.041}) == "warping error 0.04"
    assert headline({}) == ""
