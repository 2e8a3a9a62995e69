"""The choice of an engine, by hand and by simulation: hits, spread, balance."""

from __future__ import annotations

import heapq
import random
from collections import Counter, OrderedDict

import pytest

from serving.ray.routing import Choice, Report, key, rendezvous

A, B = key("temporal", "a" * 64), key("temporal", "b" * 64)


def choice(slack: float = 4.0, **reports: Report) -> Choice:
    made = Choice(slack, clock=lambda: 0.0)
    made.update(reports)
    return made


def test_the_engine_that_holds_the_adapter_is_preferred_in_a_slot_most_and_in_host_memory_next():
    engines = choice(x=Report(), y=Report(host=frozenset({A})), z=Report(slots=frozenset({A})))
    assert engines.rank([A], 1.0) == ["z", "y", "x"]


def test_a_holder_with_slack_more_work_than_the_least_loaded_is_passed():
    held = frozenset({A})
    assert choice(x=Report(), y=Report(work=3.9, slots=held)).rank([A], 1.0)[0] == "y"
    assert choice(x=Report(), y=Report(work=4.1, slots=held)).rank([A], 1.0)[0] == "x"
    assert (
        choice(x=Report(), y=Report(work=41, slots=held)).rank([A], 10.0)[0] == "x"
    )  # in units of the request


def test_requests_without_adapter_go_to_the_least_loaded_and_round_among_equals():
    assert choice(x=Report(work=2), y=Report(work=1, slots=frozenset({A})), z=Report(work=3)).rank() == [
        *"yxz"
    ]
    engines, got = choice(x=Report(), y=Report(), z=Report()), []
    for n in range(6):
        got.append(engines.rank((), 1.0)[0])
        engines.sent(str(n), got[-1], (), 1.0)
    assert sorted(got[:3]) == sorted(got[3:]) == ["x", "y", "z"]


def test_an_engine_whose_slots_are_all_in_use_is_no_place_for_a_further_adapter():
    full = Report(full=frozenset({"temporal"}))
    for name in "xy":
        reports = {"x": Report(), "y": Report(), name: full}
        assert choice(**reports).rank([A], 1.0)[-1] == name


def test_what_was_sent_counts_before_it_is_reported_and_until_it_is_done():
    engines = choice(x=Report(), y=Report())
    home = engines.rank([A], 1.0)[0]
    engines.sent("1", home, [A], 1.0)
    assert engines.load(home) == 1.0
    assert engines.rank([A], 1.0)[0] == home  # the adapter is on its way there
    assert engines.rank((), 1.0)[0] != home
    engines.update(
        {"x": Report(work=1.0 if home == "x" else 0.0), "y": Report(work=1.0 if home == "y" else 0.0)}
    )
    assert engines.load(home) == 1.0, "one's own work is not counted twice"
    engines.done("1")
    engines.done("1")
    assert engines.load(home) == 0.0


def test_work_of_other_ingresses_is_seen_in_the_reports():
    engines = choice(x=Report(), y=Report())
    engines.sent("1", "x", (), 1.0)
    engines.update({"x": Report(work=1.0), "y": Report(work=5.0)})
    assert (engines.load("x"), engines.load("y")) == (1.0, 5.0)


def test_an_engine_that_is_gone_takes_what_it_had_with_it():
    engines = choice(x=Report(), y=Report())
    engines.sent("1", "x", [A], 5.0)
    engines.update({"y": Report()})
    assert engines.rank([A], 1.0) == ["y"]
    engines.sent("late", "x", [A], 5.0)  # it was chosen before and is sent now
    engines.update({"x": Report(), "y": Report()})
    assert engines.load("x") == 0.0


def test_an_adapter_is_not_held_to_be_where_it_was_sent_for_ever():
    now = [0.0]
    engines = Choice(clock=lambda: now[0])
    engines.update({"x": Report(), "y": Report(slots=frozenset({B}))})
    engines.sent("1", "x", [A], 0.0)
    assert engines.rank([A], 1.0)[0] == "x"
    now[0] = 60.0
    engines.update({"x": Report(), "y": Report(slots=frozenset({A}))})
    assert engines.rank([A], 1.0)[0] == "y"


def test_ingresses_that_know_nothing_agree_and_adapters_have_many_homes():
    names = [key("temporal", f"{n:064x}"[::-1]) for n in range(400)]
    homes = [choice(**dict.fromkeys("wxyz", Report())).rank([name], 1.0)[0] for name in names]
    assert homes == [choice(**dict.fromkeys("zyxw", Report())).rank([name], 1.0)[0] for name in names]
    assert min(Counter(homes).values()) > 60
    assert rendezvous("x", [A, B]) == rendezvous("x", [B, A])


class Simulation:
    """Engines with `slots` by least recent use that share their pace among at most `batch` requests at a time."""

    def __init__(self, pick=Choice, *, engines: int = 4, slots: int = 8, batch: int = 8, every: float = 1.0):
        self.now, self.every = 0.0, every
        self.pick = pick(4.0, clock=lambda: self.now)
        self.slots = {f"e{n}": OrderedDict() for n in range(engines)}
        self.size = slots
        self.free_at = {engine: [0.0] * batch for engine in self.slots}  # of each place in a batch
        self.hits = self.loads = 0
        self.where: dict[str, set[str]] = {}
        self.waits: list[float] = []
        self.got: Counter = Counter()

    def run(self, adapters: list[str], gap: float, seconds: float = 1.0) -> Simulation:
        running: list[tuple[float, str]] = []
        reported = -self.every
        for n, adapter in enumerate(adapters):
            now = self.now = n * gap
            while running and running[0][0] <= now:
                self.pick.done(heapq.heappop(running)[1])
            if now - reported >= self.every:
                reported = now
                self.pick.update(
                    {engine: Report(slots=frozenset(held)) for engine, held in self.slots.items()}
                )
            engine = self.pick.rank([adapter], seconds)[0]
            self.pick.sent(str(n), engine, [adapter], seconds)
            held = self.slots[engine]
            if adapter in held:
                self.hits += 1
                held.move_to_end(adapter)
            else:
                self.loads += 1
                held[adapter] = None
                while len(held) > self.size:
                    held.popitem(last=False)
            self.where.setdefault(adapter, set()).add(engine)
            self.got[engine] += 1
            begin = max(now, heapq.heappop(self.free_at[engine]))
            heapq.heappush(self.free_at[engine], begin + seconds)
            heapq.heappush(running, (begin + seconds, str(n)))
            self.waits.append(begin - now)
        return self


class PowerOfTwo(Choice):
    """What Ray Serve does by itself: of two at random the less loaded."""

    def __init__(self, *settings, **more) -> None:
        super().__init__(*settings, **more)
        self.draw = random.Random(0)

    def rank(self, adapters=(), work=None):
        two = self.draw.sample(sorted(self._reports), 2)
        return sorted(two, key=self.load)


def zipf(requests: int, adapters: int, exponent: float, seed: int = 1) -> list[str]:
    draw = random.Random(seed)
    names = [key("temporal", f"{n:02x}" * 32) for n in range(adapters)]
    return draw.choices(names, [1 / (n + 1) ** exponent for n in range(adapters)], k=requests)


@pytest.mark.parametrize(("exponent", "times"), [(0.0, 2.4), (0.9, 1.6), (1.2, 1.3)])
def test_far_more_requests_find_their_adapter_than_by_power_of_two_and_none_waits_longer(exponent, times):
    """32 slots in all for 32 adapters, at 80 % of what the engines can do."""
    asked = zipf(4000, 32, exponent)
    gap = 1 / (4 * 8 * 0.8)
    ours = Simulation().run(asked, gap)
    theirs = Simulation(PowerOfTwo).run(asked, gap)
    assert ours.hits > times * theirs.hits
    assert sum(ours.waits) <= sum(theirs.waits) + 0.05 * len(asked)
    assert max(ours.got.values()) < 1.25 * len(asked) / 4


def test_a_hot_adapter_spreads_over_all_engines_and_cold_ones_have_one_each():
    hot, draw = A, random.Random(5)
    cold = [key("temporal", f"{n:02x}" * 32) for n in range(24)]
    asked = [hot if draw.random() < 0.8 else draw.choice(cold) for _ in range(2000)]
    gap = 1 / (4 * 8 * 0.8)
    done = Simulation().run(asked, gap)
    assert done.where[hot] == set(done.slots)
    assert max(done.waits) <= 1.0
    assert sum(len(done.where[name]) for name in cold) < 2.2 * len(cold)
    two = Simulation(PowerOfTwo).run(asked, gap)
    assert sum(len(two.where[name]) for name in cold) > 3.5 * len(cold), "they would be everywhere"


def test_a_little_load_leaves_even_the_hottest_where_it_is():
    done = Simulation().run([A] * 200, gap=0.5)
    assert len(done.where[A]) == 1
    assert done.hits == 199
