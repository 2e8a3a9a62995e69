"""Latents ahead of the lanes: each clip once, in the order of the plan, in the same bits as in the lane."""

import threading
from contextlib import contextmanager

import pytest
import torch
from clip_sets import sliding_clips, write_set

from datasets.clip_sets.latents import LatentCache
from infra.errors import ConceptError
from infra.registry import open_registry
from infra.storage import open_storage
from models.adapters.file import read_adapter
from models.load import load_foundation
from training.batch.lane.lane import Lane
from training.batch.latents.prepare import (
    STOPPED,
    Missing,
    decode_portion,
    encode_portion,
    prepare_portions,
    prepare_work,
    store_portion,
)
from training.batch.latents.prepare_ahead import BackgroundPreparation
from training.batch.manifest.entries import Entry
from training.batch.manifest.plan import make_plan
from training.batch.run import enter
from training.batch.state.leased_tasks import LeasedTasks
from training.batch.state.state import open_batch
from training.batch.watch.watcher import Watcher
from training.runs.inputs import bucket_of, load, prepare_latents, read_concept
from training.runs.job import Job
from training.runs.job import Watcher as Quiet

WAN = "tiny-random:wan"
SIZE = {"frames": 5, "height": 32, "width": 32, "steps": 2, "rank": 2}


@pytest.fixture(scope="module")
def foundation():
    return load_foundation(WAN, device="cpu", dtype="float32")


def clip_set(folder):
    """c0 has one clip, c1 that one and another, c2 what c0 has, c3 a clip and a caption of its own."""
    other = sliding_clips("c3", count=3, caption="another thing slides")[2]
    return write_set(
        folder,
        *(clip for name, count in (("c0", 1), ("c1", 2), ("c2", 1)) for clip in sliding_clips(name, count)),
        other,
    )


@pytest.fixture
def clips(tmp_path):
    return clip_set(tmp_path / "clips")


def planned(clips, registry, *names, foundation=WAN, **settings):
    entries = [
        Entry(name, clips, foundation, settings={**SIZE, **settings})
        for name in names or ("c0", "c1", "c2", "c3")
    ]
    return make_plan(entries, "m", registry)


@pytest.fixture
def registry(tmp_path):
    return open_registry(tmp_path / "registry")


def cached(clips):
    storage = LatentCache(open_storage(clips)).storage
    return {info.key: storage.get(info.key) for info in storage.list()}


def test_each_clip_and_caption_that_lacks_is_given_out_once_in_the_order_of_the_plan(
    clips, registry, foundation
):
    works = planned(clips, registry).works
    portions = list(Missing().of_all(works))
    assert [(p.name, len(p.clips), len(p.captions)) for p in portions] == [
        ("c0", 1, 2),  # and the empty caption, which all share
        ("c1", 1, 1),
        ("c3", 1, 1),
    ]
    assert len({sha256 for p in portions for sha256 in p.clips}) == 3
    larger = planned(clips, registry, "c0", height=16).works
    both = list(Missing().of_all([*works[:1], *larger]))
    assert [(p.clips == portions[0].clips, len(p.captions)) for p in both] == [(True, 2), (True, 0)]
    prepare_work(works[1], foundation)  # c1 has c0's clip too
    assert [p.name for p in Missing().of_all(works)] == ["c3"]


def test_a_concept_whose_clips_cannot_be_read_is_passed_over(clips, registry):
    works = planned(clips, registry).works
    open_storage(clips).delete(".manifest.json")
    assert list(Missing().of_all(works)) == []


def test_what_is_prepared_ahead_has_the_bits_of_what_the_lane_prepares(tmp_path, clips, registry, foundation):
    works = planned(clips, registry).works
    made = list(prepare_portions(Missing().of_all(works), foundation, threading.Lock()))
    assert [(done.portion.name, done.made, done.error) for done in made] == [
        ("c0", 3, None),
        ("c1", 2, None),
        ("c3", 2, None),
    ]
    other = clip_set(tmp_path / "other")
    for work in planned(other, registry).works:
        prepare_work(work, foundation)
    assert cached(clips) == cached(other)
    assert len(cached(clips)) == 7
    assert list(prepare_portions(Missing().of_all(works), foundation)) == []


def test_what_cannot_be_prepared_is_told_and_the_others_go_on(clips, registry, foundation, monkeypatch):
    works = planned(clips, registry).works
    portions = list(Missing().of_all(works))
    from datasets.clip_sets import clips as module

    decode = module.decode

    def broken(video, name):
        if portions[1].clips[0][0] == digests[name.split()[1]]:
            raise ConceptError(f"{name} is no video")
        return decode(video, name=name)

    digests = {clip.clip_id: clip.sha256 for clip in module.read_clips(clips)}
    monkeypatch.setattr(module, "decode", broken)
    made = {done.portion.name: done.error for done in prepare_portions(portions, foundation)}
    assert (made["c0"], made["c3"]) == (None, None)
    assert made["c1"].endswith("is no video")
    assert len(cached(clips)) == 5


def test_another_foundation_prepares_nothing(clips, registry):
    (portion, *_) = Missing().of_all(planned(clips, registry).works)
    other = load_foundation("tiny-random:unet3d", device="cpu", dtype="float32")
    done = store_portion(encode_portion(decode_portion(portion), other))
    assert (done.made, "has fingerprint" in done.error) == (0, True)


@pytest.mark.parametrize("family", ["tiny-random:unet3d", WAN])
def test_train_and_train_batch_share_latents_of_one_precision_and_of_no_other(
    clips, registry, tmp_path, family
):
    def missing(dtype):
        return list(Missing().of_all(planned(clips, registry, "c0", foundation=family, dtype=dtype).works))

    job = Job("c0", clips, str(tmp_path / "run"), registry.uri, family)
    foundation, config = load(job, {**SIZE, "dtype": "bf16"}, 1)
    assert foundation.dtype is torch.bfloat16  # what it trains in
    prepare_latents(job, read_concept(job), foundation, bucket_of(config, foundation), Quiet(), config)
    assert missing("bf16") == []
    (portion,) = missing("fp32")
    assert (len(portion.clips), len(portion.captions)) == (1, 2)
    done = store_portion(encode_portion(decode_portion(portion), foundation))
    assert (done.made, "bfloat16" in done.error) == (0, True)
    encoders = load_foundation(family, device="cpu", dtype="float32", parts=("vae", "text"))
    assert store_portion(encode_portion(decode_portion(portion), encoders)).made == 3
    assert missing("fp32") == []
    halves = load_foundation(family, device="cpu", dtype="bfloat16", parts=("vae", "text"))
    assert halves.dtype is torch.bfloat16  # though its denoiser is not there


def test_what_is_made_under_a_lock_is_stored_before_the_lock_is_let_go(clips, registry, foundation):
    there = []

    class Lock:
        def __enter__(self):
            there.append(len(cached(clips)))

        def __exit__(self, *_):
            there.append(len(cached(clips)))

    works = planned(clips, registry).works
    made = sum(done.made for done in prepare_portions(Missing().of_all(works), foundation, Lock()))
    before, after = there[::2], there[1::2]
    assert made == len(before) == len(after)
    assert [b - a for a, b in zip(before, after, strict=True)] == [1] * made


def test_when_it_is_to_stop_it_stops_at_the_next_clip_and_keeps_what_it_made(clips, registry, foundation):
    (portion, *_) = Missing().of_all(planned(clips, registry, "c1").works)
    asked = []

    def stopping():
        asked.append(0)
        return len(asked) > 2  # before the portion and its first clip not yet

    (done,) = prepare_portions([portion], foundation, stopping=stopping)
    assert (done.made, done.error) == (1, STOPPED)
    assert len(cached(clips)) == 1


@contextmanager
def counted(foundation, monkeypatch):
    """The names of the threads that encoded, one for each clip."""
    encode, threads = foundation.encode_both, []

    def encode_both(video):
        threads.append(threading.current_thread().name)
        return encode(video)

    with monkeypatch.context() as patch:
        patch.setattr(foundation, "encode_both", encode_both)
        yield threads


class Waits(Watcher):
    """Holds the first step up until everything is prepared."""

    def __init__(self, ready):
        self.ready, self.waited = ready, None

    def stepped(self, name, report):
        if self.waited is None:
            self.waited = self.ready()


def test_a_lane_prepares_what_waits_while_it_trains_and_its_adapters_are_the_same_bits(
    tmp_path, clips, foundation, monkeypatch
):
    monkeypatch.setattr("training.batch.lane.lane.load_foundation", lambda source, **options: foundation)
    monkeypatch.setattr("training.batch.latents.prepare_ahead.POLL_S", 0.05)
    adapters, threads, waited = [], [], []
    for ahead, uri in ((True, clips), (False, clip_set(tmp_path / "other"))):
        registry = open_registry(tmp_path / f"registry-{ahead}")
        batch = open_batch(registry.storage, "b")
        enter(batch, planned(uri, registry), {"manifest": "m"})

        def ready(uri=uri):
            for _ in range(600):
                if len(cached(uri)) == 7:
                    return True
                threading.Event().wait(0.05)
            return False

        watcher = Waits(ready if ahead else lambda: None)
        with counted(foundation, monkeypatch) as encoded:
            Lane(batch, registry, pack=1, device="cpu", prepare_ahead=ahead, watcher=watcher).run()
        threads.append(encoded)
        waited.append(watcher.waited)
        assert {record.status for record in batch.records()} == {"published"}
        adapters.append(
            {
                name: read_adapter(
                    registry.pull(registry.resolve(name), tmp_path / f"{ahead}-{name}")
                ).tensors
                for name in ("c0", "c1", "c2", "c3")
            }
        )
    assert waited == [True, None]
    assert len(threads[0]) == len(threads[1]) == 3  # clips: each once, whoever does it
    assert threads[0].count("batch-preparation") >= 2
    assert set(threads[1]) == {"MainThread"}
    for name, layers in adapters[0].items():
        for layer, pair in layers.items():
            for one, other in zip(pair, adapters[1][name][layer], strict=True):
                assert torch.equal(one, other)


def test_lanes_that_prepare_at_once_share_the_concepts(clips, registry, foundation):
    batch = open_batch(registry.storage, "b")
    enter(batch, planned(clips, registry), {"manifest": "m"})
    lanes = [
        BackgroundPreparation(
            open_batch(registry.storage, "b"), f"{n}", foundation, "float32", threading.Lock()
        )
        for n in (1, 2)
    ]
    threads = [threading.Thread(target=lane.once) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = [done.portion.name for lane in lanes for done in lane.prepared if done.made]
    assert len(made) == len(set(made))
    assert len(cached(clips)) == 7
    late = BackgroundPreparation(
        open_batch(registry.storage, "b"), "3", foundation, "float32", threading.Lock()
    )
    late.once()
    assert late.prepared == []


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def test_a_turn_is_one_processs_until_it_is_done_given_back_or_run_out(tmp_path):
    storage, clock = open_storage(tmp_path / "turns"), Clock()
    one, two = (LeasedTasks(storage, name, lease_s=60, clock=clock) for name in ("one", "two"))
    assert one.take("a")
    assert not two.take("a")
    clock.now += 50
    assert one.renew("a")
    clock.now += 50
    assert not two.take("a")
    clock.now += 61
    assert two.take("a")
    assert not one.renew("a")
    assert not one.done("a", {"by": "one"})
    assert two.done("a", {"by": "two"})
    clock.now += 1000
    assert not one.take("a")
    assert one.results({"a", "b"}) == {"a": {"by": "two"}}
    assert one.take("b")
    two.give_back("b")
    assert not two.take("b")
    one.give_back("b")
    assert two.take("b")
