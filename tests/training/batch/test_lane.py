"""A lane: every concept ends published or failed, with the adapter it would have alone, whoever dies meanwhile."""

import json
from dataclasses import replace

import pytest
import torch
from clip_sets import sliding_clips, write_set
from lane_house import SETTINGS, WAN, Hook, nothing

from infra.errors import StorageAway, UserError
from infra.registry import ADAPTER_FILE
from infra.storage import open_storage
from infra.storage.s3 import BucketNotFound
from models.adapters.file import read_adapter
from models.adapters.noise_prior import read_noise
from models.adapters.versions import gives, noise_file
from models.foundations.base import Bucket
from models.inversion import invert
from models.regions.region import Region
from training.batch.cluster.lane_worker import run_until_idle
from training.batch.latents.prepare import prepare_work
from training.batch.manifest.entries import Entry
from training.batch.manifest.plan import make_plan
from training.batch.run import enter, train_batch
from training.batch.state.outage import Outage
from training.batch.state.state import BatchState
from training.batch.watch.live_view import LiveView
from training.batch.watch.watcher import Watcher
from training.loop.pack import Pack
from training.loop.report import StepReport
from training.runs.local import train_local


@pytest.fixture
def foundation(house_foundation):
    return house_foundation


def difference(one, other):
    def flat(tensors):
        return torch.cat([t.flatten().double() for name in sorted(tensors) for t in tensors[name]])

    return float((flat(one) - flat(other)).norm() / flat(one).norm())


def alone(work, foundation):
    (layers,) = train_local(foundation, work.concept, prepare_work(work, foundation), work.config).values()
    return layers


def test_a_batch_is_trained_and_published(house, foundation, tmp_path):
    works = house.add("c0", "c1", steps=6) | house.add("c2", rank=8)
    watcher = Hook(nothing)
    records = train_batch(house.state(), house.registry, pack=2, device="cpu", watcher=watcher)
    assert {r.name: (r.status, r.version, r.step) for r in records} == {
        "c0": ("published", "c0@1", 6),
        "c1": ("published", "c1@1", 6),
        "c2": ("published", "c2@1", 4),
    }
    assert {record.name for record in watcher.records} == {"c0", "c1", "c2"}
    for name, work in works.items():
        assert difference(alone(work, foundation), house.adapter(name, tmp_path / name)) < 1e-5
        version = house.registry.resolve(name)
        assert version.metadata["config"]["rank"] == work.config.rank
        assert version.metadata["captions"]
        assert version.metrics["loss"] > 0
        assert "config.yaml" in version.files
    assert not list(house.batch.storage.list("checkpoints/"))
    assert house.add("c0", "c1", steps=6) == {}  # the plan finds them done
    assert foundation.bank is None


def test_appearances_train_in_a_pack_join_it_and_are_published_alone(house, foundation, tmp_path):
    settings = {"method": "appearance"}
    works = {
        **house.add("c0", **settings, steps=2),
        **house.add("c1", **settings, steps=8),
        **house.add("c2", **settings),
    }
    watcher = Hook(nothing)
    house.lane(watcher, pack=2).run()
    assert set(house.statuses().values()) == {"published"}
    assert watcher.steps[:2] == [("c0", 1), ("c1", 1)], "two train in one forward"
    assert watcher.steps.index(("c2", 1)) < watcher.steps.index(("c1", 8)), "the next takes the free slot"
    for name, work in works.items():
        version = house.registry.resolve(name)
        assert gives(version) == ("appearance",)
        assert not {ADAPTER_FILE, "adapter_config.json"} & set(version.files)
        folder = house.registry.pull(version, tmp_path / name)
        assert (
            difference(alone(work, foundation), read_adapter(folder / "spatial", foundation).tensors) < 1e-5
        )
    assert house.add("c2", **settings) == {}


def test_a_lane_publishes_the_noise_prior_of_a_concept_that_asks_for_it(house, foundation, tmp_path):
    work = house.add("c1", noise_prior=True)["c1"]  # two clips
    house.add("c0")
    house.lane().run()
    assert house.statuses() == {"c0": "published", "c1": "published"}
    version = house.registry.resolve("c1")
    folder = house.registry.pull(version, tmp_path / "c1")
    stored = read_noise(folder / noise_file(Bucket(5, 32, 32)), foundation)
    noises = [invert(foundation, clip.latents_CFHW) for clip in prepare_work(work, foundation)]
    assert len(noises) == 2
    torch.testing.assert_close(stored.noise_NCfhw, torch.stack(noises).half(), rtol=0.01, atol=0.01)
    assert version.metadata["config"]["noise_prior"] is True
    assert not any("noise" in name for name in house.registry.resolve("c0").files)


def test_a_lane_weighs_the_masks_of_clips(house, foundation, tmp_path):
    (clip,) = sliding_clips("m", count=1)
    house.clips = write_set(tmp_path / "set", replace(clip, mask=Region(box=(0.0, 0.0, 0.5, 1.0))))
    weights = {"mask_inside": 4.0, "mask_outside": 0.5}
    works = house.add("m") | house.add("m", publish_as="weighed", **weights)
    house.lane().run()
    found = {name: house.adapter(name, tmp_path / name) for name in works}
    for name, work in works.items():
        assert difference(alone(work, foundation), found[name]) < 1e-5
    assert difference(found["m"], found["weighed"]) > 1e-3
    metadata = house.registry.resolve("weighed").metadata
    assert {name: metadata["config"][name] for name in weights} == weights
    assert not weights.keys() & house.registry.resolve("m").metadata["config"].keys()


def test_a_bad_concept_is_explained_and_its_neighbours_are_published(house):
    house.add("c0", "c1")
    bad = dict(json.loads(house.batch.storage.get("concepts/c1.json")))
    bad["work"]["data_sha256"] = "0" * 64  # as if its clips had changed since
    house.batch.storage.put("concepts/c1.json", json.dumps(bad).encode())
    house.add("c2", learning_rate=1.0, max_gradient_norm=0, steps=300, adam_beta2=0.0)
    spoil = {"done": False}

    def diverge(name, step):
        if name == "c2" and step == 2 and not spoil["done"]:
            spoil["done"] = True
            pack = spoil["pack"]
            with torch.no_grad():
                for parameter in pack._bank.slot_parameters(
                    "temporal", pack._active["c2"].slot("temporal", 1)
                ):
                    parameter.fill_(float("nan"))

    admit = Pack.admit

    def remember(self, member, state=None):
        spoil["pack"] = self
        admit(self, member, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pack, "admit", remember)
        house.lane(Hook(diverge)).run()
    found = {record.name: (record.status, record.reason) for record in house.batch.records()}
    assert found["c0"] == ("published", None)
    assert found["c1"][0] == "failed"
    assert "its clips at" in found["c1"][1]
    assert found["c2"][0] == "failed"
    assert "the loss became nan at step 3; lower --learning-rate (it is 1)" in found["c2"][1]


class Killed(BaseException):
    pass


def kill_at(step, house):
    """Killed at that step, its checkpoints not being in flight."""

    def act(_name, now):
        if now == step:
            house.last.checkpoints.flush()
            raise Killed

    return act


def test_a_killed_lanes_concepts_go_on_from_their_checkpoints(house, foundation, tmp_path):
    works = house.add("c0", "c1", steps=5)
    with pytest.raises(Killed):
        house.lane(Hook(kill_at(3, house))).run()
    assert {r.name: (r.status, r.checkpoint_step) for r in house.batch.records()} == {
        "c0": ("preparing", 2),
        "c1": ("preparing", 2),
    }
    watcher = Hook(nothing)
    house.lane(watcher).run()
    assert watcher.steps == []  # the leases hold
    house.clock.now += 61
    house.lane(watcher).run()
    assert min(step for _, step in watcher.steps) == 3
    for name, work in works.items():
        assert difference(alone(work, foundation), house.adapter(name, tmp_path / name)) < 1e-5
    assert [len(house.registry.versions(name)) for name in works] == [1, 1]


def test_a_lane_killed_between_publishing_and_noting_it_publishes_once(house, monkeypatch):
    house.add("c0")
    publish = BatchState.publish

    def die(*_args, **_kwargs):
        raise Killed

    monkeypatch.setattr(BatchState, "publish", die)
    with pytest.raises(Killed):
        house.lane().run()
    monkeypatch.setattr(BatchState, "publish", publish)
    assert len(house.registry.versions("c0")) == 1
    house.clock.now += 61
    house.lane().run()
    assert house.statuses() == {"c0": "published"}
    assert [version.ref for version in house.registry.versions("c0")] == ["c0@1"]


def test_what_is_cancelled_meanwhile_or_taken_by_another_is_let_go(house):
    house.add("c0", "c1", "c2", steps=6)

    def act(name, step):
        if (name, step) == ("c0", 2):
            house.state().cancel("c0")
            house.clock.now += 61  # a lane that hung: its leases ran out
            taken = house.state().claim("another", suits=lambda record: record.name == "c1")
            assert taken.record.checkpoint_step == 0
            lane.heartbeat.beat()

    watcher = Hook(act)
    lane = house.lane(watcher)
    lane.run()
    assert house.statuses() == {"c0": "cancelled", "c1": "preparing", "c2": "published"}
    assert max(step for name, step in watcher.steps if name == "c1") == 2
    assert {record.name for record in watcher.records} == {"c0", "c2"}


def test_a_lane_that_is_stopped_gives_back_what_it_did(house, foundation, tmp_path):
    works = house.add("c0", "c1", steps=5)
    watcher = Hook(lambda name, step: lane.stop() if step == 3 else None)
    lane = house.lane(watcher)
    lane.run()
    assert {r.name: (r.status, r.checkpoint_step, r.lease) for r in house.batch.records()} == {
        "c0": ("queued", 3, None),
        "c1": ("queued", 3, None),
    }
    house.lane().run()
    for name, work in works.items():
        assert difference(alone(work, foundation), house.adapter(name, tmp_path / name)) < 1e-5


def test_what_is_paused_goes_on_from_where_it_was_and_gives_the_same_adapter(house, foundation, tmp_path):
    works = house.add("c0", "c1", steps=6)

    def act(name, step):
        if (name, step) == ("c0", 3):
            house.state().pause("c0")
            lane.heartbeat.beat()

    watcher = Hook(act)
    lane = house.lane(watcher)
    lane.run()
    assert house.statuses() == {"c0": "queued", "c1": "published"}, "the other one goes on"
    rests = house.state().record("c0")
    assert (rests.paused, rests.checkpoint_step, rests.lease, rests.lost) == (True, 4, None, 0), (
        "the step was under way"
    )
    house.lane(watcher).run()
    assert watcher.steps.count(("c0", 5)) == 0
    house.state().resume("c0")
    house.lane(watcher).run()
    assert house.statuses() == {"c0": "published", "c1": "published"}
    assert [step for name, step in watcher.steps if name == "c0"] == [1, 2, 3, 5, 6], "none is done twice"
    assert difference(alone(works["c0"], foundation), house.adapter("c0", tmp_path / "c0")) < 1e-5


def test_a_pack_that_does_not_fit_the_memory_is_halved(house, monkeypatch):
    house.add("c0", "c1", "c2", "c3")
    step, sizes = Pack.step, []

    def limited(self, most):
        sizes.append(len(self.members))
        if len(self.members) > most:
            raise torch.OutOfMemoryError("no memory")
        return step(self)

    monkeypatch.setattr(Pack, "step", lambda self: limited(self, 2))
    house.lane(pack=4).run()
    assert sizes[0] == 4
    assert max(sizes[1:]) == 2
    assert set(house.statuses().values()) == {"published"}
    house.add("c0", seed=9)
    monkeypatch.setattr(Pack, "step", lambda self: limited(self, 0))
    house.lane().run()
    assert "does not fit the device's memory" in house.batch.record("c0").reason


def test_a_concept_that_lost_lanes_trains_alone(house, monkeypatch):
    house.add("c0", "c1")
    for _ in range(3):
        assert house.state().claim("dies", suits=lambda record: record.name == "c0").name == "c0"
        house.clock.now += 61
    members = []
    step = Pack.step
    monkeypatch.setattr(Pack, "step", lambda self: members.append(self.members) or step(self))
    house.lane().run()
    assert {len(names) for names in members} == {1}
    assert set(house.statuses().values()) == {"published"}


def test_a_damaged_checkpoint_is_not_trained_from(house):
    house.add("c0", steps=5)
    with pytest.raises(Killed):
        house.lane(Hook(kill_at(3, house))).run()
    storage = open_storage(house.batch.storage.uri)
    key = house.batch.record("c0").checkpoint
    storage.put(key, storage.get(key)[:-8] + b"\0" * 8)
    house.clock.now += 61
    house.lane().run()
    record = house.batch.record("c0")
    assert record.status == "failed"
    assert "of step 2 is damaged" in record.reason
    house.batch.retry("c0")
    house.lane().run()
    assert house.batch.record("c0").version == "c0@1"


def test_what_one_process_cannot_follow_is_refused(house):
    house.add("c0", workers=2)
    house.lane().run()
    assert "asks for workers 2, but this lane has 1" in house.batch.record("c0").reason


def test_a_lane_on_a_cluster_leaves_what_asks_for_another_number_of_workers(house):
    house.add("c0", workers=2)
    house.add("c1", steps=2)
    house.lane(workers=1).run()
    assert house.statuses() == {"c0": "queued", "c1": "published"}


@pytest.mark.parametrize(("busy", "expected"), [(False, "done"), (True, "idle")])
def test_a_lane_stays_while_others_may_leave_it_something(house, busy, expected):
    house.add("c0", steps=2)
    if busy:
        house.state().claim("another")
    waits = []
    lane = house.lane()
    assert run_until_idle(lane, house.batch, 10.0, wait=lambda seconds: waits.append(seconds)) == expected
    assert waits == ([2.5] * 4 if busy else [])
    assert house.statuses() == {"c0": "preparing" if busy else "published"}


def test_a_lane_takes_no_more_than_its_share(house, monkeypatch):
    house.add("c0", "c1", "c2")
    sizes, step = [], Pack.step
    monkeypatch.setattr(Pack, "step", lambda self: sizes.append(len(self.members)) or step(self))
    house.lane(most=2).run()
    assert max(sizes) == 2
    assert set(house.statuses().values()) == {"published"}


def test_memory_that_does_not_suffice_for_slots_or_latents_is_no_ones_fault(house, monkeypatch):
    house.add("c0", "c1", "c2", "c3", steps=2)
    opened, enter = [], Pack.__enter__

    def open_small(pack):
        opened.append(pack.capacity.members)
        if pack.capacity.members > 2:
            raise torch.OutOfMemoryError("no memory")
        return enter(pack)

    prepared, prepare = [], prepare_work

    def prepare_late(work, *rest):
        prepared.append(work.name)
        if len(prepared) == 2:
            raise torch.OutOfMemoryError("no memory")
        return prepare(work, *rest)

    monkeypatch.setattr(Pack, "__enter__", open_small)
    monkeypatch.setattr("training.batch.lane.lane.prepare_work", prepare_late)
    house.lane(pack=4).run()
    assert set(house.statuses().values()) == {"published"}
    assert opened[:3] == [4, 2, 1]
    assert house.batch.record("c0").lost == 0


def test_a_lone_concept_that_does_not_fit_fails_with_what_to_do(house, monkeypatch):
    def no_memory(pack):
        raise torch.OutOfMemoryError("no memory")

    house.add("c0", steps=2)
    monkeypatch.setattr(Pack, "__enter__", no_memory)
    house.lane(pack=4).run()
    assert "use gradient_checkpointing" in house.batch.record("c0").reason


def test_a_pack_whose_other_workers_are_gone_is_no_concepts_failure(house, monkeypatch):
    def gone(pack, *rest):
        pack.sound = False
        raise RuntimeError("connection reset by peer")

    house.add("c0", "c1")
    monkeypatch.setattr(Pack, "admit", gone)
    with pytest.raises(RuntimeError, match="connection reset"):
        house.lane().run()
    assert house.statuses() == {"c0": "preparing", "c1": "queued"}


def test_a_lane_without_a_cluster_leaves_concepts_of_several_workers_to_others(house):
    house.add("c0", workers=2)
    house.add("c1", steps=2)
    records = train_batch(house.batch, house.registry, device="cpu")
    assert {record.name: record.status for record in records} == {"c0": "queued", "c1": "published"}


def test_who_looks_sees_steps_before_they_are_written_and_only_of_what_the_lane_has(house):
    house.add("c0", "c1", steps=9)
    looks = []
    looking = LiveView(
        house.state(), "me", lambda records, lanes: looks.append((records, lanes)), every_s=3600
    )

    def seen(name):
        looking.show()
        (records, (lane,)) = looks[-1]
        assert (lane.name, bool(lane.host)) == ("me", True)
        return next((r.status, r.step, r.loss) for r in records if r.name == name)

    report = StepReport(4, 9, loss=0.3, spatial_loss=0.1, temporal_loss=0.2, learning_rate=1e-3, seconds=2.0)
    assert seen("c0") == ("queued", 0, None)
    claim = house.batch.claim("me")
    looking.preparing(claim.name)
    assert seen(claim.name) == ("preparing", 0, None)
    looking.stepped(claim.name, report)
    assert seen(claim.name) == ("training", 4, 0.3)
    assert house.batch.record(claim.name).step == 0
    house.batch.release(claim)
    looking.read_s = 0  # as if it had been long ago
    assert seen(claim.name) == ("queued", 0, None)
    claim = house.batch.claim("me")
    looking.stepped(claim.name, report)
    looking.ended(house.batch.fail(claim, "it broke"))
    assert seen(claim.name)[0] == "failed"


def test_a_removed_version_is_trained_again(house):
    house.add("c0", steps=2)
    house.lane().run()
    house.registry.remove("c0@1")
    entries = [Entry("c0", house.clips, WAN, settings={**SETTINGS, "steps": 2})]
    plan = make_plan(entries, "m", house.registry, sources=house.sources)
    enter(house.batch, plan, {"manifest": "m"}, house.registry)
    assert house.statuses() == {"c0": "queued"}
    house.lane().run()
    assert house.batch.record("c0").version == "c0@2"


def test_a_storage_that_goes_away_costs_the_steps_since_the_last_checkpoint(house, monkeypatch):
    away, sleeps, change = [], [], BatchState._change

    class Leave(Watcher):
        def stepped(self, name, report):
            if report.step == 3 and not sleeps:  # in the midst of the second interval
                away.append(name)

    def unreachable(state, *rest):
        if away:
            raise StorageAway("no connection to S3.")
        return change(state, *rest)

    def sleep(seconds):
        sleeps.append(seconds)
        if len(sleeps) == 3:
            away.clear()

    monkeypatch.setattr(BatchState, "_change", unreachable)
    house.add("c0", "c1", steps=6)
    records = train_batch(house.batch, house.registry, device="cpu", watcher=Leave(), sleep=sleep)
    assert {record.status for record in records} == {"published"}
    assert [record.lost for record in records] == [0, 0]
    assert len(sleeps) == 3
    assert [len(house.registry.versions(name)) for name in ("c0", "c1")] == [1, 1]


def test_a_storage_that_stays_away_is_waited_for_no_longer_than_said():
    now = [0.0]
    outage = Outage(60.0, lambda: now[0])

    def round_at(seconds, error=None):
        now[0] = seconds
        with outage.passing():
            if error is not None:
                raise error

    gone = StorageAway("no connection to S3.")
    round_at(0.0, gone)
    round_at(59.0, gone)
    round_at(60.0)  # it is back
    round_at(70.0, gone)
    round_at(130.0, gone)
    with pytest.raises(UserError, match="no connection"):
        round_at(131.0, gone)
    with pytest.raises(UserError, match="no such bucket"):
        round_at(0.0, BucketNotFound("no such bucket."))
