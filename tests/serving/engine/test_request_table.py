"""Which requests an engine has: each is in one stage, and ends once."""

from __future__ import annotations

import threading
import time

import pytest
from serving_helpers import video_request

from serving.adapters.adapter_cache import Claim
from serving.engine.request_state import RequestState, Stage
from serving.engine.request_table import RequestTable


def state_of(id: str, **kind) -> RequestState:
    claim = Claim((), lambda claim, error: None, [("flow", 1.0)])
    return RequestState(id, video_request(**kind), lambda event: None, claim)


def table_of(*ids: str) -> tuple[RequestTable, list[RequestState]]:
    table, states = RequestTable(), [state_of(id) for id in ids]
    for state in states:
        table.add(state)
    return table, states


def test_requests_wait_in_order_of_arrival_and_are_found_by_id():
    table, (a, b) = table_of("a", "b")
    assert len(table) == 2
    assert table.at(Stage.WAITING) == [a, b]
    assert table.oldest_waiting() is a
    assert table.get("b") is b
    assert table.get("c") is None


def test_a_request_is_in_one_stage_and_is_found_until_it_ends():
    table, (a, b) = table_of("a", "b")
    for stage in (Stage.RUNNING, Stage.FINISHING):
        table.move(a, stage)
        assert a.stage is stage
        assert table.at(stage) == [a]
        assert table.count(stage) == 1
        assert table.get("a") is a
        assert table.at(Stage.WAITING) == [b]
        assert sum(map(len, table.all().values())) == len(table) == 2
    assert table.remove(a) is Stage.FINISHING
    assert table.get("a") is None
    assert table.all() == {Stage.WAITING: [b], Stage.RUNNING: [], Stage.FINISHING: []}


def test_a_request_ends_once_even_if_its_id_is_in_use_again():
    table, (first,) = table_of("a")
    assert table.remove(first) is Stage.WAITING
    second = state_of("a")
    table.add(second)
    assert table.remove(first) is None
    assert table.get("a") is second


@pytest.mark.parametrize("stage", [Stage.WAITING, Stage.RUNNING, Stage.FINISHING])
def test_an_id_is_refused_until_its_request_has_ended(stage):
    table, (first,) = table_of("a")
    if stage is not Stage.WAITING:
        table.move(first, stage)
    with pytest.raises(ValueError, match="already has a request 'a'"):
        table.add(state_of("a"))
    assert table.at(stage) == [first]


def test_loaded_requests_are_taken_once_with_their_errors():
    table, (a, b) = table_of("a", "b")
    error = OSError("the disk is broken")
    table.report_loaded(b, error)
    table.report_loaded(a)
    assert table.take_loaded() == [(b, error), (a, None)]
    assert table.take_loaded() == []


def test_a_request_that_ended_while_its_adapters_were_loaded_is_not_taken():
    table, (a, b) = table_of("a", "b")
    table.report_loaded(a)
    table.report_loaded(b)
    table.remove(a)
    assert table.take_loaded() == [(b, None)]


def test_cancelling_marks_the_request_and_only_one_that_has_not_ended():
    table, (a, b) = table_of("a", "b")
    table.move(b, Stage.RUNNING)
    assert table.cancel("b")
    assert (a.cancelled, b.cancelled) == (False, True)
    table.remove(b)
    assert not table.cancel("b")
    assert not table.cancel("unknown")


def seconds_waited(table: RequestTable) -> float:
    began = time.monotonic()
    table.wait()
    return time.monotonic() - began


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> float:
    """`wait` returns by itself only after this many seconds."""
    monkeypatch.setattr("serving.engine.request_table.PATIENCE", 60.0)
    return 60.0


@pytest.mark.parametrize(
    "wake",
    [
        lambda table, state: table.wake(),
        lambda table, state: table.cancel(state.id),
        lambda table, state: table.report_loaded(state),
        lambda table, state: table.close(),
    ],
    ids=["wake", "cancel", "report_loaded", "close"],
)
def test_waiting_ends_when_there_is_work_whether_it_came_before_or_during(patient, wake):
    table, (a,) = table_of("a")
    wake(table, a)
    assert seconds_waited(table) < patient / 2
    table, (a,) = table_of("a")
    waiter = threading.Thread(target=table.wait)
    waiter.start()
    wake(table, a)
    waiter.join(patient / 2)
    assert not waiter.is_alive()


def test_one_wake_ends_one_wait(monkeypatch):
    monkeypatch.setattr("serving.engine.request_table.PATIENCE", 0.05)
    table, _ = table_of("a")
    table.wake()
    table.wake()
    table.wait()
    assert seconds_waited(table) >= 0.05


def test_waiting_ends_at_the_next_deadline_of_a_waiting_request(patient):
    table, _ = table_of("a")
    running = state_of("running", deadline=time.time() - 1)
    for state in (running, state_of("soon", deadline=time.time() + 0.1)):
        table.add(state)
    table.move(running, Stage.RUNNING)
    assert 0.05 <= seconds_waited(table) < patient / 2


def test_a_closed_table_returns_what_has_not_ended_and_names_the_reason_to_others():
    table, (a, b, c) = table_of("a", "b", "c")
    table.move(a, Stage.RUNNING)
    table.remove(b)
    reason = OSError("the device is lost")
    assert table.close(reason) == [c, a]
    assert table.closed
    table.close()
    with pytest.raises(RuntimeError, match="closed") as refused:
        table.add(state_of("d"))
    assert refused.value.__cause__ is reason
    assert table.remove(a) is Stage.RUNNING, "those that are here may still end"
