"""Latents ahead of the lanes by Ray Data: the same objects as in one process, each once."""

from types import SimpleNamespace
from typing import ClassVar

import pytest
from clip_sets import sliding_clips, write_set

from datasets.clip_sets.latents import LatentCache
from infra.errors import UserError
from infra.ray.cluster import ray_session
from infra.registry import open_registry
from infra.storage import open_storage
from models.load import load_foundation
from training.batch.cluster.ray_lanes import check_encoder, train_on_ray
from training.batch.latents.prepare import prepare_work
from training.batch.latents.ray_prepare import Share, _Preparer, prepare_ahead, share_beside
from training.batch.manifest.entries import Entry
from training.batch.manifest.plan import make_plan
from training.batch.state.in_turn import preparing_turns, turn_of
from training.batch.state.state import open_batch
from training.config import make_config

WAN = "tiny-random:wan"
SIZE = {"frames": 5, "height": 32, "width": 32, "steps": 2, "rank": 2}


def clip_set(folder):
    return write_set(
        folder, *(clip for n, count in (("c0", 1), ("c1", 2), ("c2", 1)) for clip in sliding_clips(n, count))
    )


def planned(clips, registry):
    return make_plan([Entry(n, clips, WAN, settings=SIZE) for n in ("c0", "c1", "c2")], "m", registry).works


def cached(clips):
    storage = LatentCache(open_storage(clips)).storage
    return {info.key: storage.get(info.key) for info in storage.list()}


class Rows:
    """Ray Data in this process: what a stage is given is applied at once. `gpus`: what encoders asked for."""

    gpus: ClassVar[list] = []

    def __init__(self, rows):
        self.rows = rows

    def map(self, stage, fn_constructor_args=(), num_gpus=None, **_):
        if isinstance(stage, type):
            self.gpus.append(num_gpus)
        stage = stage(*fn_constructor_args) if isinstance(stage, type) else stage
        return Rows([stage(row) for row in self.rows])

    def iter_rows(self):
        return iter(self.rows)


@pytest.mark.parametrize(
    ("workers", "limit", "free", "asked", "gpus"),
    [
        ([1, 1, 1], None, 3, None, 0),  # each concept may have a lane of its own
        ([1, 1, 1], None, 4, None, 0.5),
        ([1, 1, 1], None, 3.5, None, 0),
        ([1, 1, 1], 2, 3, None, 0.5),
        ([1, 4, 2], 2, 6, None, 0),  # the largest lanes
        ([1, 4, 2], 2, 7, None, 0.5),
        ([1], None, 0, None, 0),  # the autoscaler starts no node for this
        ([1, 1], None, 2, 0.25, 0.25),
        ([1], None, 8, 0, 0),
    ],
)
def test_the_encoder_has_a_part_of_a_gpu_that_no_lane_will_want_or_what_was_asked(
    workers, limit, free, asked, gpus
):
    works = [SimpleNamespace(config=make_config({"workers": count})) for count in workers]
    assert share_beside(works, limit, free, asked) == Share(gpus=gpus)


def test_a_part_of_a_gpu_that_no_node_has_is_refused():
    for asked, nodes in ((0, [{"CPU": 4.0}]), (None, [{"CPU": 4.0}]), (0.5, [{"CPU": 4.0}, {"GPU": 1.0}])):
        check_encoder(asked, nodes)
    with pytest.raises(UserError, match=r"--encoder-gpus 0.5: the cluster has no GPUs"):
        check_encoder(0.5, [{"CPU": 4.0}])


@pytest.mark.parametrize(("free", "gpus", "device"), [(4.0, 0.5, None), (3.0, None, "cpu")])
def test_a_batch_on_gpus_asks_ray_for_that_part_and_encodes_there(tmp_path, monkeypatch, free, gpus, device):
    """From `train_on_ray` to what Ray Data is asked for; the lanes are left out."""
    asked, devices = [], []

    def load(source, **options):
        devices.append(options["device"])
        return load_foundation(source, **{**options, "device": "cpu"})

    def begin(batch, works, share):
        monkeypatch.setattr(Rows, "gpus", asked)
        _Preparer(share, preparing_turns(batch, "Ray Data")).run(list(works))

    registry = open_registry(tmp_path / "registry")
    works = planned(clip_set(tmp_path / "clips"), registry)
    monkeypatch.setattr("models.load.load_foundation", load)
    monkeypatch.setattr("ray.data.from_items", lambda items, **_: Rows(items))
    monkeypatch.setattr("ray.available_resources", lambda: {"CPU": 8.0, "GPU": free})
    monkeypatch.setattr("training.batch.cluster.ray_lanes.has_gpus", lambda: True)
    monkeypatch.setattr("training.batch.latents.ray_prepare.prepare_ahead", begin)
    monkeypatch.setattr("training.batch.cluster.ray_lanes.Driver.run", lambda driver: [])
    batch = open_batch(registry.storage, "b")
    assert train_on_ray(batch, registry, "b", works=works) == []
    assert asked == [gpus]
    assert devices == [device]


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (0.5, None)])
def test_an_encoder_without_a_gpu_of_its_own_leaves_those_of_the_lanes_alone(
    tmp_path, monkeypatch, gpus, device
):
    asked = []

    def load(source, **options):
        asked.append(options["device"])
        return load_foundation(source, **{**options, "device": "cpu"})

    works = planned(clip_set(tmp_path / "clips"), open_registry(tmp_path / "registry"))
    monkeypatch.setattr("models.load.load_foundation", load)
    monkeypatch.setattr("ray.data.from_items", lambda items, **_: Rows(items))
    batch = open_batch(open_registry(tmp_path / "registry").storage, "b")
    made = _Preparer(Share(gpus=gpus), preparing_turns(batch, "Ray Data")).run(list(works))
    assert [(done.portion.name, done.error) for done in made] == [("c0", None), ("c1", None)]
    assert asked == [device]


def test_what_a_lane_has_begun_is_passed_over(tmp_path, monkeypatch):
    registry = open_registry(tmp_path / "registry")
    batch = open_batch(registry.storage, "b")
    works = planned(clip_set(tmp_path / "clips"), registry)
    lane = preparing_turns(batch, "a lane")
    assert lane.take(turn_of(works[0].name, works[0].sha256))
    monkeypatch.setattr("ray.data.from_items", lambda items, **_: Rows(items))
    made = _Preparer(Share(), preparing_turns(batch, "Ray Data")).run(list(works))
    assert [(done.portion.name, done.made, done.error) for done in made] == [("c0", 0, None), ("c1", 2, None)]


@pytest.mark.cluster
@pytest.mark.faults  # minutes: Ray Data beside two foundations
def test_a_batch_is_prepared_on_the_cluster_in_the_same_bits(tmp_path):
    clips, other = clip_set(tmp_path / "clips"), clip_set(tmp_path / "other")
    registry = open_registry(tmp_path / "registry")
    foundation = load_foundation(WAN, device="cpu", dtype="float32")
    with ray_session("local", num_cpus=2):
        works, batch = planned(clips, registry), open_batch(registry.storage, "b")
        preparing = prepare_ahead(batch, works)
        made = preparing.wait(120)
        assert [(done.portion.name, done.made, done.error) for done in made] == [
            ("c0", 3, None),  # with the empty caption, for `caption_dropout`
            ("c1", 2, None),
        ]
        assert [done.portion.name for done in preparing.so_far()] == ["c0", "c1"]
        preparing.stop()
        again = prepare_ahead(batch, works)
        assert again.wait(120) == []
        again.stop()
    for work in planned(other, registry):
        prepare_work(work, foundation)
    assert cached(clips) == cached(other)
