"""What makes a lane's worker stop: a drained node, SIGTERM, its supervisor's word, its supervisor's end."""

import threading

import pytest

from training.batch.cluster import lane_worker
from training.batch.cluster.lane_worker import reason_to_stop, watching_for_stop
from training.batch.cluster.signals import TERMINATED


class Remote:
    """An actor's method whose answer is at hand; an exception is raised where it is asked for."""

    def __init__(self, answer):
        self.answer = answer

    def remote(self, *arguments):
        return self.answer


class LaneSupervisor:
    def __init__(self, answer=None):
        self.stop_reason = Remote(answer)


@pytest.fixture
def drained(monkeypatch):
    """Stands for Ray in this process; set, the node of the worker is drained."""
    event = threading.Event()

    def get(answer, timeout=None):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("ray.get", get)
    monkeypatch.setattr("ray.train.get_preemption_info", lambda: "a notice" if event.is_set() else None)
    TERMINATED.clear()
    yield event
    TERMINATED.clear()


def test_a_lane_goes_on_while_nothing_tells_it_to_stop(drained):
    assert reason_to_stop(LaneSupervisor(), "l1") is None


def test_a_drained_node_sigterm_and_the_supervisor_are_reasons_to_stop(drained):
    assert reason_to_stop(LaneSupervisor("asked to"), "l1") == "asked to"
    gone = "its supervisor does not answer (ConnectionError)"
    assert reason_to_stop(LaneSupervisor(ConnectionError("the supervisor has died")), "l1") == gone
    drained.set()
    assert reason_to_stop(LaneSupervisor("asked to"), "l1") == "its node is drained"
    TERMINATED.set()
    assert reason_to_stop(LaneSupervisor(), "l1") == "SIGTERM"


def test_a_notice_stops_the_lane_once_and_the_worker_asks_on_for_the_others(drained, monkeypatch):
    told, asked = [], threading.Semaphore(0)

    def reason(supervisor, name):
        asked.release()
        return reason_to_stop(supervisor, name)

    monkeypatch.setattr(lane_worker, "reason_to_stop", reason)
    with watching_for_stop(LaneSupervisor(), "l1", told.append, every_s=0.001) as stopped:
        for _ in range(3):
            assert asked.acquire(timeout=30)
        assert not stopped.is_set()
        assert told == []
        drained.set()
        assert stopped.wait(30)
        while asked.acquire(blocking=False):
            pass
        for _ in range(3):  # the notice is there for all workers only when every one asks
            assert asked.acquire(timeout=30)
    assert told == ["its node is drained"]
