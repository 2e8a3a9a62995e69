"""What a lane claims, in which order, and that none of it is lost or blamed when something else fails."""

import json
from types import SimpleNamespace

import pytest
import torch
from lane_house import Hook, nothing

from infra.errors import StorageAway, StorageDenied, StorageFull, UserError
from models.load import NoSafetensors
from training.batch.cluster.lane_worker import run_until_idle
from training.batch.lane.choosing import Choosing
from training.batch.run import train_batch
from training.batch.state.outage import Outage
from training.batch.state.state import BatchState
from training.loop.pack import Pack


def order(watcher):
    """Concepts in the order of their first steps."""
    return list(dict.fromkeys(name for name, _ in watcher.steps))


def states(house):
    return {r.name: (r.status, r.lost, r.lease) for r in house.batch.records()}


def once(monkeypatch, owner, name, error):
    """The first call of a method raises."""
    method, raised = getattr(owner, name), []

    def fail_first(*arguments, **options):
        if not raised:
            raised.append(True)
            raise error
        return method(*arguments, **options)

    monkeypatch.setattr(owner, name, fail_first)


# ---------------------------------------------------------------------- choosing
def test_a_machine_that_slept_past_its_leases_goes_on_with_what_it_has(house):
    house.add("c0", "c1", steps=6)

    def act(name, step):
        if (name, step) == ("c1", 3):
            house.clock.now += 61
            lane._polled_at = float("-inf")  # it looks for others after this step

    watcher = Hook(act)
    lane = house.lane(watcher)
    lane.run()
    assert states(house) == {"c0": ("published", 0, None), "c1": ("published", 0, None)}
    assert len(watcher.steps) == 12


def test_a_concept_that_is_added_again_while_it_waits_trains_as_it_was_added_last(house, monkeypatch):
    house.add("c0", "c1")
    groups, enter = [], Pack.__enter__
    monkeypatch.setattr(Pack, "__enter__", lambda pack: groups.append(pack.key) or enter(pack))

    def act(name, step):
        if (name, step) == ("c0", 2):
            house.add("c1", gradient_checkpointing=False)

    house.lane(Hook(act), pack=1).run()
    assert house.statuses() == {"c0": "published", "c1": "published"}
    assert [key.gradient_checkpointing for key in groups] == [True, False]  # as recommended, as given


def test_what_is_urgent_does_not_wait_for_the_whole_of_another_group(house):
    house.add("c0", "c1", "c2")

    def act(name, step):
        if (name, step) == ("c0", 2):
            house.add("c3", rank=8, priority=5)

    watcher = Hook(act)
    house.lane(watcher, pack=1).run()
    assert order(watcher)[:2] == ["c0", "c3"]
    assert set(house.statuses().values()) == {"published"}


def test_what_needs_more_room_is_not_passed_by_what_is_less_urgent(house):
    house.add("c0", priority=9)
    house.add("c2", priority=9, steps=8)

    def act(name, step):
        if (name, step) == ("c0", 2):
            house.add("c1", priority=5)  # of two clips: it does not fit beside c2
            house.add("c0", publish_as="late")

    watcher = Hook(act)
    house.lane(watcher, pack=2).run()
    assert order(watcher) == ["c0", "c2", "c1", "late"]
    first = watcher.steps.index(("late", 1))
    assert ("c2", 8) in watcher.steps[:first]
    assert set(house.statuses().values()) == {"published"}


# ------------------------------------------------- what concepts are not to blame for
OTHER = SimpleNamespace(fingerprint="0" * 64)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (UserError("foundation 'm' is neither a folder here nor a hub id."), "neither a folder here"),
        (OTHER, "fingerprint 000000000000, but the plan expects"),
        (
            torch.OutOfMemoryError("CUDA out of memory."),
            r"tiny-random:wan in fp32 does not fit the memory of .* GiB\); use dtype bf16 or zero 3 with workers",
        ),
    ],
)
def test_a_foundation_that_cannot_be_had_here_ends_the_lane_and_no_concept(house, monkeypatch, found, why):
    house.add("c0", "c1")

    def load(source, **options):
        if isinstance(found, Exception):
            raise found
        return found

    with monkeypatch.context() as patch:
        patch.setattr("training.batch.lane.lane.load_foundation", load)
        with pytest.raises(UserError, match=why):
            train_batch(house.state(), house.registry, device="cpu")
    assert set(states(house).values()) == {("queued", 0, None)}
    house.lane().run()
    assert set(house.statuses().values()) == {"published"}


def test_at_zero_3_the_denoiser_waits_on_the_cpu_for_its_shares(house, monkeypatch):
    house.add("c0", workers=2, zero=3)
    asked = []

    def load(source, **options):
        asked.append(options["denoiser_on_cpu"])
        raise UserError("enough")

    monkeypatch.setattr("training.batch.lane.lane.load_foundation", load)
    with pytest.raises(UserError, match="enough"):
        house.lane(workers=2).run()
    assert asked == [True]


def test_a_foundation_that_no_node_can_load_fails_what_asks_for_it(house, monkeypatch):
    house.add("c0", "c1")

    def load(source, **options):
        raise NoSafetensors(f"{source} has no safetensors.")

    monkeypatch.setattr("training.batch.lane.lane.load_foundation", load)
    house.lane().run()
    assert {record.reason for record in house.batch.records()} == {"tiny-random:wan has no safetensors."}


@pytest.mark.parametrize("fault", [StorageDenied, StorageFull])
@pytest.mark.parametrize(
    "place",
    [
        "lane.lane.prepare_work",
        "lane.lane.restore",
        "lane.lane.publish",
        "state.checkpoints.CheckpointWriter._write",
    ],
)
def test_a_storage_that_is_full_or_closed_ends_the_lane_and_no_concept(house, monkeypatch, place, fault):
    house.add("c0", "c1")

    def refuse(*_arguments, **_options):
        raise fault("the disk is full.")

    def act(_name, step):
        if step == 3:
            house.last.checkpoints.flush()

    with monkeypatch.context() as patch:
        patch.setattr(f"training.batch.{place}", refuse)
        with pytest.raises(UserError, match="the disk is full"):
            house.lane(Hook(act)).run()
    assert set(states(house).values()) == {("queued", 0, None)}
    if place == "lane.lane.publish":
        assert house.batch.record("c0").checkpoint_step == 2
        house.lane().run()
        assert set(house.statuses().values()) == {"published"}


AWAY = StorageAway("no connection to S3.")


def again(house, watcher=None, **options):
    """A lane that is cut short by the storage, and goes on when it is back; no lease runs out meanwhile."""
    lane = house.lane(watcher, **options)
    with pytest.raises(UserError, match="no connection"):
        lane.run()
    lane.run()
    assert not lane.held
    return states(house)


def test_a_storage_that_goes_away_before_the_first_is_admitted_costs_no_claim(house, monkeypatch):
    house.add("c0")
    once(monkeypatch, Choosing, "capacity", AWAY)
    assert again(house) == {"c0": ("published", 0, None)}


def test_a_storage_that_goes_away_as_memory_lacks_costs_no_claim(house, monkeypatch):
    house.add("c0", "c1")
    once(monkeypatch, Pack, "step", torch.OutOfMemoryError("no memory"))
    once(monkeypatch, BatchState, "release", AWAY)
    assert set(again(house, pack=4).values()) == {("published", 0, None)}


def test_a_storage_that_goes_away_as_a_concept_fails_lets_it_fail_later(house, monkeypatch):
    house.add("c0")
    bad = json.loads(house.batch.storage.get("concepts/c0.json"))
    bad["work"]["data_sha256"] = "0" * 64
    house.batch.storage.put("concepts/c0.json", json.dumps(bad).encode())
    once(monkeypatch, BatchState, "fail", AWAY)
    assert again(house) == {"c0": ("failed", 0, None)}
    assert "its clips at" in house.batch.record("c0").reason


def test_a_storage_that_goes_away_as_a_concept_is_cancelled_lets_it_end_later(house, monkeypatch):
    house.add("c0", steps=6)

    def act(_name, step):
        if step == 2:
            house.state().cancel("c0")
            house.last.heartbeat.beat()

    once(monkeypatch, BatchState, "cancelled", AWAY)
    assert again(house, Hook(act)) == {"c0": ("cancelled", 0, None)}


def test_an_ended_concept_is_not_given_back(house, monkeypatch):
    house.add("c0")
    once(monkeypatch, BatchState, "forget", AWAY)
    watcher = Hook(nothing)
    assert again(house, watcher) == {"c0": ("published", 0, None)}
    assert [record.version for record in watcher.records] == ["c0@1"]
    assert len(watcher.steps) == 4


@pytest.mark.parametrize("where", ["run", "cluster.lane_worker"])
def test_each_outage_of_a_long_round_has_patience_of_its_own(house, monkeypatch, where):
    seconds, away, waits, change = [0.0], [], [], BatchState._change
    monkeypatch.setattr(f"training.batch.{where}.Outage", lambda: Outage(900.0, lambda: seconds[0]))

    def unreachable(state, *rest):
        if away:
            raise AWAY
        return change(state, *rest)

    def act(_name, step):
        if (step, len(waits)) in ((3, 0), (7, 1)):
            seconds[0] += 3 * 3600
            away.append(step)

    def wait(pause):
        waits.append(pause)
        away.clear()
        return False

    monkeypatch.setattr(BatchState, "_change", unreachable)
    house.add("c0", steps=8)
    if where == "run":
        train_batch(house.batch, house.registry, device="cpu", watcher=Hook(act), sleep=wait)
    else:
        assert run_until_idle(house.lane(Hook(act)), house.batch, 10.0, wait=wait) == "done"
    assert len(waits) == 2
    assert states(house) == {"c0": ("published", 0, None)}


# ------------------------------------------------------------------- what is done
def test_what_the_plan_finds_done_is_not_trained_with_what_an_earlier_manifest_gave(house):
    house.add("c0", "c1", steps=2)
    house.lane().run()
    house.add("c0", steps=2, rank=8)
    assert house.statuses() == {"c0": "queued", "c1": "published"}
    assert house.add("c0", "c1", steps=2) == {}  # as at first, which is done
    house.lane().run()
    assert house.statuses() == {"c0": "cancelled", "c1": "published"}
    assert [version.ref for version in house.registry.versions("c0")] == ["c0@1"]
    house.add("c0", steps=2, rank=8)
    house.state().claim("another")
    with pytest.raises(UserError, match="c0 is preparing with other data or settings; cancel it first"):
        house.add("c0", steps=2)
