"""Checkpoints from a thread: in order, the newest wins, under the lease, and what goes wrong is said in the lane."""

import threading
import time
import uuid

import pytest
import torch
from faults import LoseAnswer, Refuse, faulty

from infra.errors import StorageDenied
from infra.storage import FolderStorage, open_storage
from training.batch.state.checkpoints import CheckpointWriter, restore
from training.batch.state.state import BatchState
from training.batch.state.work import Work
from training.config import make_config
from training.loop.checkpoint import MemberState


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def work(name):
    config = make_config({"frames": 4, "height": 32, "width": 32, "steps": 10})
    return Work(name, name, "/clips", "d" * 64, 1, None, "f" * 64, config)


def at(step):
    return MemberState(step, {"temporal/1/layer/A": torch.full((4,), float(step))})


class Gated(FolderStorage):
    """A folder whose checkpoints wait at a gate; `written` are the keys put, `arrived` tells that one waits."""

    def __init__(self, root):
        super().__init__(root)
        self.gate, self.arrived, self.written = threading.Event(), threading.Event(), []

    def put(self, key, data):
        if key.startswith("checkpoints/"):
            self.arrived.set()
            assert self.gate.wait(30)
            self.written.append(key)
        super().put(key, data)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def gated(tmp_path):
    return Gated(tmp_path / "batch")


def wait_until(writer, true):
    """Until something is true of the writer, seen when nobody is about to change it."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with writer._changed:
            if true():
                return
        time.sleep(0.01)
    raise AssertionError("it did not come about in 30 s")


def begun(storage, clock, *names):
    """The batch's state with these concepts claimed, and the claims."""
    state = BatchState(storage, clock=clock)
    state.add(work(name) for name in names)
    return state, [state.claim("lane") for _ in names]


def steps(keys):
    return [int(key.split("/")[-1].split("-")[0]) for key in keys]


def test_the_lane_does_not_wait_and_the_newest_state_wins(gated, clock):
    state, (a, b) = begun(gated, clock, "a", "b")
    with CheckpointWriter(BatchState(gated, clock=clock)) as writer:
        writer.begin(a)
        writer.begin(b)
        writer.put(a, at(1))
        assert gated.arrived.wait(30)
        for step in (2, 3, 4):  # one is in flight: these only replace each other
            writer.put(a, at(step))
        writer.put(b, at(3))
        assert (gated.written, state.record("a").checkpoint) == ([], None)
        gated.gate.set()
        writer.flush()
        assert [k.split("/")[1] for k in gated.written] == ["a", "a", "b"]
        assert steps(gated.written) == [1, 4, 3]
        record = state.record("a")
        assert (record.checkpoint_step, record.checkpoint) == (4, gated.written[1])
        assert torch.equal(
            restore(gated, record).tensors["temporal/1/layer/A"], at(4).tensors["temporal/1/layer/A"]
        )
    assert {info.key for info in gated.list("checkpoints/")} == set(
        gated.written[1:]
    )  # the one before is gone


def test_what_waits_is_written_at_the_end_but_not_when_the_process_is_to_die(gated, clock):
    state, (a,) = begun(gated, clock, "a")

    def open_when_closing(writer):
        wait_until(writer, lambda: writer._closing)
        gated.gate.set()

    for error, last in ((None, 2), (RuntimeError, 4), (KeyboardInterrupt, 5)):
        gated.gate.clear()
        gated.arrived.clear()
        began = last if error is KeyboardInterrupt else last - 1

        def leave(error=error, began=began):
            with CheckpointWriter(BatchState(gated, clock=clock)) as writer:
                writer.begin(a)
                writer.put(a, at(began))
                assert gated.arrived.wait(30)
                writer.put(a, at(began + 1))
                threading.Thread(target=open_when_closing, args=(writer,), daemon=True).start()
                if error is not None:
                    raise error

        if error is None:
            leave()
        else:
            with pytest.raises(error):
                leave()
        assert state.record("a").checkpoint_step == last


def test_a_concept_that_another_has_is_reported_lost_and_its_record_left(gated, clock):
    state, (a,) = begun(gated, clock, "a")
    with CheckpointWriter(BatchState(gated, clock=clock)) as writer:
        writer.begin(a)
        writer.put(a, at(1))
        assert gated.arrived.wait(30)
        clock.now += 61
        taken = BatchState(gated, clock=clock).claim("another")  # while it was in flight
        gated.gate.set()
        writer.flush()
        assert writer.lost() == {"a"}
        assert writer.lost() == set()
    record = state.record("a")
    assert (record.checkpoint, record.lease.token) == (None, taken.token)


def test_a_dropped_concept_has_nothing_under_way(gated, clock):
    _, (a,) = begun(gated, clock, "a")
    with CheckpointWriter(BatchState(gated, clock=clock)) as writer:
        writer.begin(a)
        writer.put(a, at(1))
        assert gated.arrived.wait(30)
        writer.put(a, at(2))
        written = []

        def drop():
            writer.drop("a")
            written.extend(gated.written)

        dropping = threading.Thread(target=drop)
        dropping.start()
        wait_until(writer, lambda: "a" not in writer._waiting)
        dropping.join(0.1)
        assert dropping.is_alive()  # for what is being written
        gated.gate.set()
        dropping.join(30)
        assert steps(written) == [1]
        writer.flush()
    assert steps(gated.written) == [1]


@pytest.fixture
def proxied(s3, monkeypatch):
    with faulty(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy, open_storage(f"{s3.uri}/{uuid.uuid4().hex}")


def test_errors_of_the_storage_come_up_in_the_lane(proxied, clock):
    proxy, storage = proxied
    _, (a,) = begun(storage, clock, "a")

    def lane():
        with CheckpointWriter(BatchState(storage, clock=clock)) as writer:
            writer.begin(a)
            proxy.methods, proxy.faults = {"PUT", "POST"}, [Refuse(403, "AccessDenied")] * 9
            writer.put(a, at(1))
            writer.flush()

    with pytest.raises(StorageDenied):
        lane()
    proxy.faults = []
    assert BatchState(storage, clock=clock).record("a").checkpoint is None


def test_a_lost_answer_neither_loses_nor_doubles_a_checkpoint(proxied, clock):
    proxy, storage = proxied
    state, (a,) = begun(storage, clock, "a")
    with CheckpointWriter(BatchState(storage, clock=clock)) as writer:
        writer.begin(a)
        writer.put(a, at(1))
        writer.flush()
        proxy.methods, proxy.faults = {"PUT"}, [LoseAnswer(), LoseAnswer()]
        writer.put(a, at(2))
        writer.flush()
        assert proxy.faults == []
        assert writer.lost() == set()
    assert state.record("a").checkpoint_step == 2
    assert steps(info.key for info in storage.list("checkpoints/")) == [2]
