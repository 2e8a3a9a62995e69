"""The thread that renews claims: whoever trains does not wait for its requests, and hears nothing of what is over."""

import threading

import pytest

from infra.storage import open_storage
from infra.storage.leases import LeaseLost
from training.batch.lane.heartbeat import Heartbeat
from training.batch.state.state import BatchState
from training.batch.state.work import Work
from training.config import make_config


class Gated(BatchState):
    """A state whose renewals wait at a gate; `arrived` tells that one waits."""

    def __init__(self, storage):
        super().__init__(storage)
        self.gate, self.arrived, self.renewed, self.lost = threading.Event(), threading.Event(), [], False

    def beat(self, claim, **progress):
        self.arrived.set()
        assert self.gate.wait(30)
        self.renewed.append((claim.name, progress))
        if self.lost:
            raise LeaseLost
        return super().beat(claim, **progress)


@pytest.fixture
def state(tmp_path):
    return Gated(open_storage(tmp_path / "batch"))


@pytest.fixture
def beating(state):
    """A heartbeat with a claim on `a`, whose renewal has got to the gate; and its thread."""
    config = make_config({"frames": 4, "height": 32, "width": 32, "steps": 10})
    state.add([Work("a", "a", "/clips", "d" * 64, 1, None, "f" * 64, config)])
    heartbeat = Heartbeat(state)
    heartbeat.hold(state.claim("lane"))
    thread = threading.Thread(target=heartbeat.beat, daemon=True)
    thread.start()
    assert state.arrived.wait(30)
    yield heartbeat, thread
    state.gate.set()
    thread.join()


def started(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_telling_of_a_step_does_not_wait_for_a_renewal(state, beating):
    heartbeat, thread = beating
    telling = started(lambda: heartbeat.tell("a", step=3, loss=0.5))
    telling.join(30)
    assert not telling.is_alive()
    state.gate.set()
    thread.join()
    heartbeat.beat()
    assert state.renewed == [("a", {}), ("a", {"step": 3, "loss": 0.5})]
    assert state.record("a").step == 3


def test_letting_go_of_others_does_not_wait_for_a_renewal(beating):
    dropping = started(lambda: beating[0].drop("b"))
    dropping.join(30)
    assert not dropping.is_alive()


@pytest.mark.parametrize("lost", [False, True])
def test_when_a_claim_is_dropped_its_renewal_is_over_and_of_no_effect(state, beating, lost):
    heartbeat, thread = beating
    state.lost = lost
    state.cancel("a")
    seen = []

    def drop():
        heartbeat.drop("a")
        seen.append(len(state.renewed))

    dropping = started(drop)
    dropping.join(0.2)
    assert dropping.is_alive()
    state.gate.set()
    dropping.join()
    thread.join()
    assert seen == [1]
    assert (heartbeat.gone, heartbeat.cancelling) == (set(), set())
    heartbeat.beat()
    assert len(state.renewed) == 1


def test_what_a_renewal_finds_is_heard(state, beating):
    heartbeat, thread = beating
    state.cancel("a")
    state.gate.set()
    thread.join()
    assert heartbeat.cancelling == {"a"}
    state.lost = True
    heartbeat.beat()
    assert heartbeat.gone == {"a"}
    heartbeat.beat()  # no more
    assert len(state.renewed) == 2
