"""The state of a batch: each concept ends once, whoever dies, races, cancels or comes late."""

import random
import threading
from contextlib import suppress

import pytest

from infra.errors import UserError
from infra.storage import open_storage
from infra.storage.leases import LeaseLost
from training.batch.state.record import WITHDRAWN, stays_ended
from training.batch.state.state import BatchState, batches, open_batch
from training.batch.state.work import Work
from training.config import make_config


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


def work(name, priority=0, **settings):
    sizes = {"frames": 4, "height": 32, "width": 32, "steps": 10}
    config = make_config({**sizes, **settings})
    return Work(name, name, "/clips", "d" * 64, 1, None, "f" * 64, config, priority)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def state(tmp_path, clock):
    return BatchState(open_storage(tmp_path / "batch"), clock=clock, lease_s=60)


def statuses(state):
    return {record.name: record.status for record in state.records()}


def test_a_concepts_way_from_the_queue_to_the_registry(state, clock):
    state.add([work("orbit")])
    claim = state.claim("lane 1")
    assert (claim.name, claim.record.status, claim.record.parsed_work) == (
        "orbit",
        "preparing",
        work("orbit"),
    )
    clock.now += 50
    record = state.beat(claim, step=3, loss=0.5, step_seconds=0.1)
    assert (record.status, record.step, record.steps, record.lease.expires) == (
        "training",
        3,
        10,
        clock.now + 60,
    )
    state.checkpointed(claim, 3, f"checkpoints/{claim.name}/k")
    end = state.publish(claim, "orbit@1", step=10, loss=0.4)
    assert (end.status, end.version, end.step, end.lease, end.checkpoint) == (
        "published",
        "orbit@1",
        10,
        None,
        "checkpoints/orbit/k",
    )
    assert [change[1] for change in end.history] == ["queued", "preparing", "training", "published"]
    assert state.claim("lane 1") is None
    for late in (
        lambda: state.beat(claim),
        lambda: state.fail(claim, "x"),
        lambda: state.publish(claim, "o@2", step=1),
    ):
        with pytest.raises(LeaseLost):
            late()
    assert state.record("orbit").version == "orbit@1"


def test_the_history_names_every_lane_that_had_it_those_that_died_preparing_it_too(state, clock):
    state.add([work("orbit")])
    for number in range(3):
        claim = state.claim(f"lane {number}")
        assert claim is not None
        state.beat(claim)  # a renewal is no change
        clock.now += 61
    assert [(status, note) for _, status, note in state.record("orbit").history[1:]] == [
        ("preparing", f"lane {number}") for number in range(3)
    ]


def test_higher_priority_begins_earlier_then_the_manifests_order(state):
    state.add([work("b"), work("a"), work("urgent", priority=5)])
    state.add([work("late"), work("later-urgent", priority=5)])
    assert [state.claim("l").name for _ in range(5)] == ["urgent", "later-urgent", "b", "a", "late"]


def test_a_lane_takes_what_suits_it(state):
    state.add([work("small", rank=4), work("big", rank=8)])
    claim = state.claim("l", suits=lambda record: record.parsed_work.key.rank == 8)
    assert claim.name == "big"
    assert state.claim("l", suits=lambda record: False) is None


def test_a_dead_lanes_concept_goes_on_elsewhere_from_its_last_checkpoint(state, clock):
    state.add([work("orbit")])
    dead = state.claim("lane 1")
    state.beat(dead, step=4)
    state.checkpointed(dead, 4, "checkpoints/orbit/4")
    state.beat(dead, step=7)
    clock.now += 59
    assert state.claim("lane 2") is None
    clock.now += 1
    alive = state.claim("lane 2")
    assert (alive.record.checkpoint, alive.record.checkpoint_step, alive.record.step) == (
        "checkpoints/orbit/4",
        4,
        4,
    )
    assert alive.record.lost == 1
    with pytest.raises(LeaseLost):
        state.checkpointed(dead, 8, "checkpoints/orbit/8")
    state.publish(alive, "orbit@1", step=10)
    with pytest.raises(LeaseLost):
        state.fail(dead, "late")
    assert statuses(state) == {"orbit": "published"}


def test_what_kills_its_lanes_fails_in_the_end(state, clock):
    state.add([work("heavy", max_failures=2)])
    for _ in range(3):
        assert state.claim("l") is not None
        clock.now += 60
    assert state.claim("l") is None
    record = state.record("heavy")
    assert record.status == "failed"
    assert "lost 3 times (max_failures 2)" in record.reason
    assert state.retry("heavy").lost == 0


def test_a_lane_known_to_be_dead_need_not_be_waited_for(state):
    state.add([work("a"), work("b"), work("c")])
    dead, alive = state.claim("lane 1"), state.claim("lane 2")
    state.checkpointed(dead, 4, f"checkpoints/{dead.name}/k")
    assert [record.name for record in state.lapse("lane 1")] == ["a"]
    assert state.lapse("lane 1") == []
    state.beat(alive, step=1)
    taken = state.claim("lane 2")
    assert (taken.name, taken.record.lost, taken.record.step) == ("a", 1, 4)
    with pytest.raises(LeaseLost):
        state.beat(dead, step=5)


def test_a_lane_that_must_stop_gives_back(state):
    state.add([work("orbit")])
    claim = state.claim("l")
    state.checkpointed(claim, 5, f"checkpoints/{claim.name}/k")
    state.release(claim)
    again = state.claim("m")
    assert (again.record.checkpoint_step, again.record.lost) == (5, 0)
    with pytest.raises(LeaseLost):
        state.beat(claim)


def test_cancelling(state, clock):
    state.add([work("waits"), work("trains"), work("orphan")])
    assert state.cancel("waits").status == "cancelled"
    trains, orphan = state.claim("l"), state.claim("m")
    assert (trains.name, orphan.name) == ("trains", "orphan")
    assert state.cancel("trains").status == "preparing"
    assert state.beat(trains, step=1).cancelling
    state.cancel("trains")
    assert state.cancelled(trains).status == "cancelled"
    state.cancel("orphan")
    clock.now += 60
    assert state.claim("l") is None  # not trained any more; it ends here
    assert statuses(state) == {"waits": "cancelled", "trains": "cancelled", "orphan": "cancelled"}
    state.retry("trains")
    state.publish(state.claim("l"), "trains@1", step=10)
    for wrong in (state.cancel, state.retry):
        with pytest.raises(UserError, match=r"trains is .*published"):
            wrong("trains")
    with pytest.raises(UserError, match="nobody is not in the batch"):
        state.cancel("nobody")


def test_pausing(state, clock):
    state.add([work("waits"), work("trains")])
    assert state.pause("waits").paused
    trains = state.claim("l")
    assert (trains.name, state.claim("m")) == ("trains", None)
    state.pause("trains")
    assert state.beat(trains, step=1).paused
    clock.now += 60
    assert state.claim("m") is None, "its lane died: it rests all the same"
    assert not state.resume("trains").paused
    assert state.claim("m").name == "trains"
    assert state.cancel("waits").status == "cancelled"
    with pytest.raises(UserError, match="waits is already cancelled"):
        state.pause("waits")


def test_adding_again_changes_nothing_unless_settings_changed(state):
    assert [r.name for r in state.add([work("a"), work("b"), work("c")])] == ["a", "b", "c"]
    assert state.add([work("a"), work("b"), work("c")]) == []
    (again,) = state.add([work("a", checkpoint_interval=7)])  # how, not what
    assert (again.attempt, again.parsed_work.config.checkpoint_interval) == (1, 7)
    claim = state.claim("l")
    assert state.add([work("a", checkpoint_interval=9)]) == []  # its lane has what it began with
    with pytest.raises(UserError, match="a is preparing with other data or settings; cancel it first"):
        state.add([work("a", rank=8)])
    state.fail(claim, "clip 3 is corrupt")
    assert state.add([work("a", checkpoint_interval=7)]) == []
    assert statuses(state)["a"] == "failed"
    (again,) = state.add(
        [work("a", checkpoint_interval=7, gradient_checkpointing=True)]
    )  # as an error may ask
    assert (again.status, again.attempt, again.reason) == ("queued", 2, None)
    state.fail(state.claim("l"), "clip 3 is corrupt")
    (again,) = state.add([work("a", rank=8)])
    assert (again.status, again.attempt, again.reason) == ("queued", 3, None)
    assert state.record("a").parsed_work.config.rank == 8


@pytest.mark.parametrize("end", ["failed", "cancelled", "withdrawn"])
@pytest.mark.parametrize(
    ("again", "stays"),
    [
        (work("a"), {"failed", "cancelled"}),
        (work("a", priority=1), {"cancelled"}),  # where and how
        (work("a", checkpoint_interval=7), {"cancelled"}),
        (work("a", rank=8), set()),
    ],
)
def test_what_stays_as_it_ended_is_known_before_it_is_added(state, end, again, stays):
    state.add([work("a")])
    if end == "failed":
        state.fail(state.claim("l"), "clip 3 is corrupt")
    elif end == "cancelled":
        state.cancel("a")
    else:
        state.withdraw([work("a", rank=16)])
    assert stays_ended(state.record("a"), again) == (end in stays)
    added = state.add([again])
    assert [record.status for record in added] == ([] if end in stays else ["queued"])


def test_what_is_done_is_not_trained_with_other_settings(state):
    state.add([work("a", rank=8), work("b"), work("c", rank=8), work("d")])
    state.storage.put("checkpoints/a/1.safetensors", b"state")
    state.withdraw([work("a"), work("b"), work("elsewhere")])
    assert statuses(state) == {"a": "cancelled", "b": "queued", "c": "queued", "d": "queued"}
    assert state.record("a").history[-1][1:] == ("cancelled", WITHDRAWN)
    assert list(state.storage.list("checkpoints/")) == []
    (again,) = state.add([work("a", rank=8)])  # it is asked for again
    assert (again.status, again.reason) == ("queued", None)
    claim = state.claim("l", suits=lambda record: record.name == "c")
    with pytest.raises(UserError, match="c is preparing with other data or settings; cancel it first"):
        state.withdraw([work("c")])
    state.publish(claim, "c@1", step=10)
    state.withdraw([work("c")])
    assert statuses(state)["c"] == "published"


def test_a_record_that_changes_as_it_is_claimed_is_asked_about_again(state):
    state.add([work("a")])
    asked = []

    def suits(record):
        asked.append(record.parsed_work.config.gradient_checkpointing)
        if len(asked) == 1:
            BatchState(state.storage).add([work("a", gradient_checkpointing=True)])
        return not asked[-1]

    assert state.claim("l", suits=suits) is None
    assert asked == [False, True]
    assert statuses(state) == {"a": "queued"}


def test_another_number_of_workers_is_another_work(state):
    state.add([work("a")])
    (again,) = state.add([work("a", workers=2)])  # each looks at clips of its own
    assert again.parsed_work.config.workers == 2


def test_what_was_published_is_trained_again_when_it_is_gone(state):
    state.add([work("a")])
    state.publish(state.claim("l"), "a@1", step=5)
    assert state.add([work("a")]) == []
    (again,) = state.add([work("a")], is_gone=lambda version: version == "a@1")
    assert (again.status, again.attempt, again.version) == ("queued", 2, None)


def test_states_of_what_has_ended_are_deleted(state):
    state.add([work("a"), work("b", max_failures=0)])
    for name in "ab":
        claim = state.claim("l", suits=lambda record, name=name: record.name == name)
        state.storage.put(f"checkpoints/{name}/1.safetensors", b"state")
        state.checkpointed(claim, 1, f"checkpoints/{name}/1.safetensors")
    state.lapse("l")
    state.cancel("a")
    assert [info.key for info in state.storage.list("checkpoints/")] == ["checkpoints/b/1.safetensors"]
    assert state.claim("m") is None
    assert statuses(state) == {"a": "cancelled", "b": "failed"}
    assert list(state.storage.list("checkpoints/")) == []


def test_a_record_says_why_it_failed_until_it_is_tried_again(state):
    state.add([work("a")])
    state.fail(state.claim("l"), "clip 3 is corrupt")
    assert state.record("a").reason == "clip 3 is corrupt"
    again = state.retry("a")
    assert (again.status, again.reason, again.attempt, again.checkpoint) == ("queued", None, 2, None)
    assert [change[1:] for change in again.history][-2:] == [
        ("failed", "clip 3 is corrupt"),
        ("queued", "retried"),
    ]


def test_batches_are_found_below_their_registry(tmp_path, clock):
    registry = open_storage(tmp_path)
    one = open_batch(registry, "first", clock=clock)
    about = one.create({"registry": "r"})
    assert one.create({"registry": "other"}) == about
    assert open_batch(registry, "first").about()["id"] == about["id"]
    assert list(batches(registry)) == ["first"]
    with pytest.raises(UserError, match="no batch at"):
        open_batch(registry, "second").about()
    with pytest.raises(UserError, match="concept name"):
        open_batch(registry, "../up")


def test_of_racing_lanes_one_gets_each_concept(tmp_path):
    storage = open_storage(tmp_path / "batch")
    BatchState(storage).add([work(f"c{n}") for n in range(12)])
    taken, errors = [], []

    def lane(owner):
        state = BatchState(storage)
        try:
            while (claim := state.claim(owner)) is not None:
                taken.append(claim.name)
                state.beat(claim, step=1)
                state.publish(claim, f"{claim.name}@1", step=10)
        except BaseException as error:
            errors.append(error)

    lanes = [threading.Thread(target=lane, args=(f"l{n}",)) for n in range(4)]
    for one in lanes:
        one.start()
    for one in lanes:
        one.join()
    assert errors == []
    assert sorted(taken) == sorted(f"c{n}" for n in range(12))


class Killed(Exception):
    pass


class Mortal:
    """A storage that lets its user die at any access: before it happens, or after it without a word."""

    def __init__(self, storage, die):
        self.storage, self.die = storage, die

    def __getattr__(self, name):
        attribute = getattr(self.storage, name)
        if not callable(attribute):
            return attribute

        def access(*arguments):
            when = self.die()
            if when == "before":
                raise Killed
            result = attribute(*arguments)
            if when == "after":
                raise Killed
            return result

        return access


@pytest.mark.parametrize("seed", range(6))
def test_every_concept_ends_exactly_once_although_drivers_and_lanes_die(tmp_path, clock, seed):
    """Lanes run turn by turn and die at random accesses, drivers add and cancel; time goes by."""
    dice = random.Random(seed)
    storage = open_storage(tmp_path / "batch")

    def die():
        return dice.choice(("before", "after")) if dice.random() < 0.02 else None

    trained = {}  # name -> the highest step that a checkpoint has

    def driver():
        state = BatchState(Mortal(storage, die), clock=clock, lease_s=60)
        state.add([work(f"c{n}", max_failures=1000) for n in range(8)])
        yield
        with suppress(UserError):  # published before it could be cancelled
            state.cancel("c7")

    def lane(owner):
        state = BatchState(Mortal(storage, die), clock=clock, lease_s=60)
        while True:
            claim = state.claim(owner)
            if claim is None:
                yield
                continue
            try:
                start = claim.record.checkpoint_step
                assert start <= trained.get(claim.name, 0)  # never from what was not stored
                for step in range(start + 1, 5):
                    yield
                    if state.beat(claim, step=step).cancelling:
                        state.cancelled(claim)
                        break
                    if step % 2 == 0:
                        trained[claim.name] = max(step, trained.get(claim.name, 0))
                        state.checkpointed(claim, step, f"checkpoints/{claim.name}/{step}")
                else:
                    if claim.name == "c3":
                        state.fail(claim, "clip 1 is corrupt")
                    else:
                        yield
                        state.publish(claim, f"{claim.name}@1", step=4)
            except LeaseLost:
                continue

    processes, ends, deaths = {}, {}, 0
    watching = BatchState(storage, clock=clock, lease_s=60)
    for turn in range(4000):
        clock.now += dice.choice((0, 1, 1, 5, 30 if dice.random() < 0.05 else 1))
        name = dice.choice(("driver", "lane 1", "lane 2", "lane 3"))
        if name not in processes:
            processes[name] = driver() if name == "driver" else lane(name)
        try:
            next(processes[name])
        except (Killed, StopIteration) as end:
            deaths += isinstance(end, Killed)
            del processes[name]
        if turn % 20 == 0:
            for record in watching.records():
                if record.ended:  # and stays so
                    assert ends.setdefault(record.name, (record.status, record.version)) == (
                        record.status,
                        record.version,
                    )
            if len(ends) == 8:
                break
    assert len(ends) == 8, statuses(watching)
    assert deaths > 3
    assert ends.pop("c3")[0] == "failed"
    assert ends.pop("c7")[0] in ("cancelled", "published")
    assert {status for status, _ in ends.values()} == {"published"}
