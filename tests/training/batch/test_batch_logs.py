"""A lane's lines are in the storage, bounded, whoever reads them."""

import logging
from types import SimpleNamespace

import pytest

from infra.errors import StorageAway, UserError
from infra.storage import open_storage
from training.batch.state.record import Record
from training.batch.watch import logs
from training.batch.watch.logs import Journal, JournalHandler, Notes, Reader
from training.loop.report import StepReport


class Clock:
    now = 1000.0

    def __call__(self):
        self.now += 0.5
        return self.now


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path / "batch")


def texts(storage, kind, name=None):
    return [line.text for line in Reader(storage).new(kind, name)]


def report(step, steps=100):
    return StepReport(step, steps, 0.5, 0.2, 0.3, 1e-3, 0.1)


def test_lines_of_a_concept_and_of_a_lane_are_apart(storage):
    with Journal(storage, "l1", clock=Clock(), every_s=3600) as journal:
        notes = Notes(journal, clock=journal.clock)
        notes.loading(None)
        notes.preparing("orbit")
        for step in range(1, 101):
            notes.stepped("orbit", report(step))
        notes.ended(Record("orbit", {}, "h", 0, 0, status="published", version="orbit@1"))
        with JournalHandler(notes):
            logging.getLogger("training.batch.lane.lane").warning(
                "orbit: %s", "its claim could not be renewed"
            )
            logging.getLogger("infra.x").warning("slow: the storage")
    logging.getLogger("training").warning("after")
    assert texts(storage, "lanes", "l1") == [
        "loading the embedded foundation",
        "orbit: published",
        "warning: slow: the storage",
    ]
    lines = texts(storage, "concepts", "orbit")
    assert lines[:2] == ["preparing", "step 1/100, loss 0.5000, 0.1 s per step"]
    assert lines[-3:] == [
        "step 100/100, loss 0.5000, 0.1 s per step",
        "published orbit@1",
        "warning: orbit: its claim could not be renewed",
    ]
    assert 5 < len(lines) < 20  # some of the steps
    assert texts(storage, "concepts", "orb") == []


def test_a_reader_gives_what_has_come_since(storage):
    one, other = (Journal(storage, name, clock=Clock()) for name in ("l1", "l2"))
    reader = Reader(storage)
    one.write("a", "orbit")
    one.flush()
    assert [line.text for line in reader.new("concepts", "orbit")] == ["a"]
    one.write("b", "orbit")
    other.write("c", "orbit")
    one.flush()
    other.flush()
    assert {(line.lane, line.text) for line in reader.new("concepts", "orbit")} == {("l1", "b"), ("l2", "c")}
    assert reader.new("concepts", "orbit") == []


def test_a_log_keeps_to_its_size(storage, monkeypatch):
    monkeypatch.setattr(logs, "FULL", 300)
    monkeypatch.setattr(logs, "KEPT", 3)
    journal = Journal(storage, "l1", clock=Clock())
    for number in range(100):
        journal.write(f"line {number} {'x' * (10_000 if number == 50 else 1)}")
        if number % 7 == 0:
            journal.flush()
    journal.flush()
    infos = list(storage.list("logs/"))
    assert len(infos) == 3
    assert max(info.size for info in infos) < 300 + 100
    kept = [int(text.split()[1]) for text in texts(storage, "lanes", "l1")]
    assert kept == list(range(kept[0], 100))
    assert len(kept) > 6


def test_lines_wait_for_a_storage_that_is_away(storage, monkeypatch):
    journal = Journal(storage, "l1", clock=Clock())
    journal.write("a")
    journal.write("b", "orbit")
    put, tries = type(storage).put, []

    def away(self, key, data):
        tries.append(key)
        if len(tries) != 2:
            return put(self, key, data)
        raise StorageAway("the storage is away.")

    monkeypatch.setattr(type(storage), "put", away)
    with pytest.raises(UserError):
        journal.flush()
    journal.write("c", "orbit")
    journal.flush()
    assert texts(storage, "lanes") == ["a"]
    assert texts(storage, "concepts") == ["b", "c"]


def test_a_private_lane_names_concepts_in_their_own_logs_alone(storage):
    journal = Journal(storage, "l1", clock=Clock())
    notes = Notes(journal, private=True)
    notes.preparing("t-1.orbit")
    logger = logging.getLogger("training.test_private")
    handler = JournalHandler(notes)
    logger.addHandler(handler)
    try:
        logger.warning("the storage is slow; t-1.orbit waits")
        logger.warning("the storage is slow")
    finally:
        logger.removeHandler(handler)
    notes.ended(SimpleNamespace(name="t-1.orbit", status="published", version="t-1.orbit@1", reason=None))
    journal.flush()
    assert texts(storage, "lanes") == ["warning: the storage is slow", "published"]
    assert texts(storage, "concepts", "t-1.orbit") == [
        "preparing",
        "warning: the storage is slow; t-1.orbit waits",
        "published t-1.orbit@1",
    ]
