"""Fair turns: shares by tenant, adapter and priority; nobody gains by staying away."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.fairness import FairQueue


def flow(tenant, adapter="", priority=0):
    return [(priority, 8.0**priority), (tenant, 1.0), (adapter, 1.0)]


def filled(**counts: int) -> FairQueue:
    queue: FairQueue = FairQueue()
    for tenant, count in counts.items():
        for n in range(count):
            queue.add((tenant, n), flow(tenant), 1.0)
    return queue


def taken(queue: FairQueue, n: int) -> Counter:
    return Counter(queue.pick()[0] for _ in range(n))


def test_one_flow_is_first_come_first_served():
    queue = filled(a=5)
    assert [queue.pick() for _ in range(5)] == [("a", n) for n in range(5)]
    assert queue.pick() is None


def test_a_tenant_with_a_long_queue_gets_no_more_than_one_with_a_short_one():
    assert taken(filled(hot=100, cold=10), 20) == {"hot": 10, "cold": 10}


def test_work_counts_and_not_requests():
    queue: FairQueue = FairQueue()
    for n in range(30):
        queue.add(("long", n), flow("long"), 3.0)
        queue.add(("short", n), flow("short"), 1.0)
    assert taken(queue, 20) == {"long": 5, "short": 15}


def test_within_a_tenant_its_adapters_share_and_tenants_with_many_adapters_gain_nothing():
    queue: FairQueue = FairQueue()
    for n in range(40):
        queue.add(("many", f"adapter {n}"), flow("many", n), 1.0)
        queue.add(("one", n), flow("one", "x" if n < 30 else "y"), 1.0)
    turns = [queue.pick() for _ in range(20)]
    assert Counter(tenant for tenant, _ in turns) == {"many": 10, "one": 10}
    assert sum(tenant == "one" and n >= 30 for tenant, n in turns) == 5


def test_a_higher_priority_has_eight_times_the_share_and_a_lower_one_still_goes_on():
    queue: FairQueue = FairQueue()
    for n in range(100):
        queue.add(("high", n), flow("t", priority=1), 1.0)
        queue.add(("normal", n), flow("t"), 1.0)
    assert taken(queue, 90) == {"high": 80, "normal": 10}


def test_who_was_away_does_not_make_up_for_it():
    queue = filled(here=60)
    taken(queue, 50)
    for n in range(10):
        queue.add(("back", n), flow("back"), 1.0)
    assert taken(queue, 10) == {"here": 5, "back": 5}


def test_who_sends_one_at_a_time_does_not_go_first_every_time():
    queue = filled(many=20)
    queue.add(("single", 0), flow("single"), 5.0)
    turns = []
    for n in range(12):
        turns.append(queue.pick()[0])
        if turns[-1] == "single":
            queue.add(("single", n + 1), flow("single"), 5.0)
    assert turns.count("single") == 2, "its first, and one more once the others had as much work"


def test_the_earlier_deadline_goes_first_within_a_flow():
    queue: FairQueue = FairQueue()
    for name, order in (("whenever", float("inf")), ("later", 9.0), ("soon", 3.0)):
        queue.add(name, flow("t"), 1.0, order)
    assert [queue.pick() for _ in range(3)] == ["soon", "later", "whenever"]


def test_the_ineligible_are_passed_and_keep_their_claim():
    queue = filled(a=3, b=3)
    assert [queue.pick(lambda item: item[0] == "b") for _ in range(2)] == [("b", 0), ("b", 1)]
    assert [queue.pick()[0] for _ in range(3)] == ["a", "a", "a"]
    assert queue.pick(lambda item: False) is None
    assert len(queue) == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 9), st.sampled_from(["add", "pick", "drop"])))
)
def test_everything_comes_out_once_and_nothing_is_remembered_when_it_is_empty(moves):
    queue: FairQueue = FairQueue()
    here, out = [], []
    for n, (tenant, cost, move) in enumerate(moves):
        if move == "add":
            queue.add(n, flow(tenant), cost)
            here.append(n)
        elif move == "pick" and here:
            out.append(queue.pick())
            here.remove(out[-1])
        elif here:
            assert queue.remove(here[0])
            assert not queue.remove(here.pop(0))
    assert list(queue) == here
    while (item := queue.pick()) is not None:
        here.remove(item)
    assert not here
    assert len(set(out)) == len(out)
    assert not queue._root.children


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=40, max_size=40),
    st.lists(st.integers(1, 9), min_size=40, max_size=40),
)
def test_two_that_always_wait_never_drift_apart_by_more_than_one_request_each(first, second):
    queue: FairQueue = FairQueue()
    for tenant, costs in (("a", first), ("b", second)):
        for n, cost in enumerate(costs):
            queue.add((tenant, n, cost), flow(tenant), cost)
    had = Counter()
    while {tenant for tenant, _, _ in queue} == {"a", "b"}:
        tenant, _, cost = queue.pick()
        had[tenant] += cost
        assert abs(had["a"] - had["b"]) <= 18
