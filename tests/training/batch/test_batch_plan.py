"""The plan: who trains with whom, what is done already, what it takes; and everything that is wrong, at once."""

import json
from dataclasses import replace

import pytest
from clip_sets import sliding_clips, write_set

from infra.errors import Conflict, UserError
from infra.registry import open_registry
from models.load import load_foundation
from training.adapters import describe, write_adapters
from training.batch.cluster.sizing import room_check
from training.batch.manifest.entries import Entry, Mistake, Mistakes
from training.batch.manifest.plan import Done, Plan, already_done, duration, make_plan
from training.batch.manifest.resolving import Sources, resolve_entries
from training.batch.profile.profile import Curve, Profile
from training.batch.run import enter
from training.batch.state.state import open_batch
from training.batch.state.work import Work
from training.loop.member import bank_options

UNET = "tiny-random:unet3d"
SIZES = {"frames": 4, "height": 32, "width": 32}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    made = [clip for number in range(6) for clip in sliding_clips(f"c{number}", count=1 + number % 2)]
    made += sliding_clips("mute", count=1, caption="") + sliding_clips("tiny", count=1, side=16)
    return write_set(tmp_path_factory.mktemp("clips"), *made)


@pytest.fixture(scope="module")
def sources():
    return Sources()


@pytest.fixture
def registry(tmp_path):
    return open_registry(tmp_path / "registry")


def entry(clips, concept, line=0, **settings):
    fields = {
        name: settings.pop(name) for name in ("priority", "publish_as", "foundation") if name in settings
    }
    return Entry(
        concept,
        clips,
        **{"foundation": UNET, **fields},
        settings={**SIZES, "steps": 10, **settings},
        line=line,
    )


def test_windows_of_a_long_clip_count_as_clips_and_what_is_not_learned_is_said(tmp_path, registry):
    caption = "a texture slides " + "along a wide path " * 20 + "in a green forest"
    data = write_set(
        tmp_path / "clips",
        *sliding_clips("long", count=1, frames=13),
        *sliding_clips("short", count=1, frames=4),
        *sliding_clips("wordy", count=1, frames=4, caption=caption),
    )
    sources = Sources()
    plan = make_plan(
        [entry(data, name) for name in ("long", "short", "wordy")], "m", registry, sources=sources
    )
    assert {work.name: (work.clips, work.fps) for work in plan.works} == {
        "long": (3, 8.0),
        "short": (1, 8.0),
        "wordy": (1, 8.0),
    }
    assert sources.remarks.keys() == {"long", "wordy"}
    assert (
        "lasts 1.62 s; training uses only 0.00-0.50, 0.50-1.00, 1.12-1.62 s, 3 windows"
        in sources.remarks["long"][0]
    )
    assert "in a green forest, number 0'" in sources.remarks["wordy"][0]
    # at another pace it is another work; slower clips than are learned are refused
    one, pace = (
        make_plan([entry(data, "long", **settings)], "m", registry, sources=Sources()).works[0]
        for settings in ({"windows": 1}, {"fps": 0})
    )
    assert (one.clips, pace.clips, pace.fps) == (1, 3, 0)
    assert len({work.sha256 for work in (*plan.works[:1], one, pace)}) == 3
    with pytest.raises(Mistakes, match="has 8 fps, but training uses 12"):
        make_plan([entry(data, "short", fps=12)], "m", registry, sources=Sources())


def test_concepts_that_can_share_a_forward_are_packed(clips, sources, registry):
    entries = [
        entry(clips, "c0", rank=8, steps=30),
        entry(clips, "c1", rank=8, learning_rate=1e-3, seed=7, beta=0.5),
        entry(clips, "c2", rank=4),
        entry(clips, "c3", rank=8, method="no-debias"),
        entry(clips, "c4", rank=8, foundation="tiny-random:wan", frames=5),
        entry(clips, "c5", rank=8, method="coupled"),
    ]
    plan = make_plan(entries, "m", registry, pack=4, sources=sources)
    together = [sorted(work.name for work in pack.works) for pack in plan.packs]
    assert sorted(together) == [["c0", "c1", "c3"], ["c2"], ["c4"], ["c5"]]
    pack = next(pack for pack in plan.packs if len(pack.works) == 3)
    assert (str(pack.key.bucket), pack.key.rank, pack.lane) == ("4x32x32", 8, 1)
    assert (pack.capacity.members, pack.capacity.spatial) == (3, 5)  # c1 and c3 have two clips
    assert (pack.seconds, pack.peak_bytes, plan.seconds) == (None, None, None)
    assert {work.clips for work in pack.works} == {1, 2}
    assert all(Work.from_dict(json.loads(json.dumps(work.asdict()))) == work for work in plan.works)


def test_concepts_of_several_clips_have_what_the_foundation_recommends_for_them(
    clips, sources, registry, monkeypatch
):
    recommended = sources.foundation(UNET).recommended
    monkeypatch.setitem(recommended, "training_several_clips", {"dropout": 0.3})
    plan = make_plan([entry(clips, "c0"), entry(clips, "c1")], "m", registry, sources=sources)
    found = {work.clips: work.config.dropout for work in plan.works}
    assert found == {1: 0.1, 2: 0.3}


def test_memory_is_what_bank_and_optimizer_hold(clips, sources, registry):
    (pack,) = make_plan([entry(clips, "c1", rank=8)], "m", registry, sources=sources).packs
    foundation = load_foundation(UNET, device="cpu", dtype="float32")
    options = bank_options(pack.works[0].config, 2)
    numbers = sum(p.numel() for p in foundation.add_bank(**options).parameters())
    assert pack.adapter_bytes == numbers * 4 * 4
    assert pack.base_bytes == sum(p.numel() * p.element_size() for p in foundation.denoiser.parameters())
    (full,) = make_plan([entry(clips, "c1", method="full")], "m", registry, sources=sources).packs
    numbers = sum(
        p.numel() for p in foundation.add_bank(**bank_options(full.works[0].config, 2)).parameters()
    )
    assert full.adapter_bytes == numbers * 4 * 4
    (look,) = make_plan([entry(clips, "c1", method="appearance")], "m", registry, sources=sources).packs
    numbers = sum(
        p.numel() for p in foundation.add_bank(**bank_options(look.works[0].config, 2)).parameters()
    )
    assert look.adapter_bytes == numbers * 4 * 4


def test_priority_goes_first_then_the_longest_and_lanes_share(clips, sources, registry):
    entries = [entry(clips, f"c{n}", steps=10 * (n + 1), priority=5 if n == 1 else 0) for n in range(6)]
    plan = make_plan(entries, "m", registry, lanes=2, pack=2, sources=sources)
    assert plan.works[0].name == "c1"
    first = {pack.lane: [work.name for work in pack.works] for pack in plan.packs}
    assert first[1][0] == "c1"
    assert sorted(name for names in first.values() for name in names) == [f"c{n}" for n in range(6)]
    loads = [sum(work.config.steps for work in pack.works) for pack in plan.packs]
    assert max(loads) <= 2 * min(loads)


def test_no_pack_takes_what_is_less_urgent_than_another_groups(clips, sources, registry):
    def packs(*entries):
        plan = make_plan(list(entries), "m", registry, pack=4, sources=sources)
        return [[work.name for work in pack.works] for pack in plan.packs]

    urgent, late = entry(clips, "c0", rank=8, priority=5), entry(clips, "c1", rank=8)
    assert packs(urgent, late) == [["c0", "c1"]]
    assert packs(urgent, late, entry(clips, "c2", rank=4)) == [["c0", "c1"], ["c2"]]
    assert packs(urgent, late, entry(clips, "c2", rank=4, priority=3)) == [["c0"], ["c2"], ["c1"]]
    other = entry(clips, "c3", rank=4, steps=5)
    assert packs(urgent, late, entry(clips, "c2", rank=4, priority=5), other) == [
        ["c0"],
        ["c2", "c3"],
        ["c1"],
    ]


def test_expected_time_follows_the_profile(clips, sources, registry):
    entries = [entry(clips, "c0", steps=10), entry(clips, "c1", steps=4), entry(clips, "c2", steps=8)]
    key = make_plan(entries, "m", registry, sources=sources).packs[0].key
    text = json.dumps(
        {
            "device": "d",
            "memory": 1000,
            "load_seconds": 5.0,
            "groups": {key.measured_as: [[1, 1.0, 100], [2, 1.5, 200], [4, 2.5, 400]]},
        }
    )
    profile = Profile.parse(text, "profile.json")
    plan = make_plan(entries, "m", registry, pack=2, profile=profile, sources=sources)
    # c0 and c2 first (8 steps of two), then c1 beside c0 (2 steps of two), then c1 alone (2 steps of one)
    assert plan.seconds == pytest.approx(5 + 10 * 1.5 + 2 * 1.0)
    assert plan.packs[0].peak_bytes == 200
    assert profile.best_pack(key, 1, 64) == 9  # 9 samples take 900 of 1000 bytes; more would be quicker
    assert profile.best_pack(key, 1, 4) == 4
    assert Profile("d", 10, 0.0, profile.curves).best_pack(key, 1, 64) == 1
    with pytest.raises(UserError, match="not a device profile"):
        Profile.parse('{"device": "d"}', "profile.json")


def test_free_slots_are_taken_by_the_next(clips, sources):
    works, _ = resolve_entries([entry(clips, f"c{n}", steps=n + 1) for n in range(4)], sources)
    one = Curve((1, 2), (1.0, 1.0), (0, 0))  # a second sample is for nothing
    assert duration(works, 1, one) == 1 + 2 + 3 + 4
    assert duration(works, 2, one) == 6  # 1 beside 2, 3 from second 1 to 4, 4 from second 2 to 6
    assert duration(works, 4, one) == 4


def publish(registry, foundation, work, tmp_path, **changed):
    clips = Sources().clips(work.data)[work.concept]
    metadata = {
        **describe(work.config, work.concept, clips),
        "foundation_fingerprint": work.fingerprint,
        **changed,
    }
    bank = foundation.add_bank(**bank_options(work.config, 1))
    folder = tmp_path / "adapter"
    write_adapters(folder, foundation, {"temporal": bank.extract("temporal", 1)}, metadata)
    return registry.publish(work.name, folder, metadata=metadata)


def test_what_was_trained_on_the_same_data_with_the_same_settings_is_done(clips, sources, registry, tmp_path):
    entries = [entry(clips, "c0"), entry(clips, "c1"), entry(clips, "c0", publish_as="other")]
    works, _ = resolve_entries(entries, sources)
    foundation = load_foundation(UNET, device="cpu", dtype="float32")
    version = publish(registry, foundation, works[0], tmp_path)
    publish(registry, foundation, works[1], tmp_path, data_sha256="0" * 64)  # of other clips
    plan = make_plan(entries, "m", registry, sources=sources)
    assert [(done.work.name, done.version) for done in plan.done] == [("c0", version.ref)]
    assert [work.name for work in plan.works] == ["c1", "other"]
    elsewhere = replace(
        works[0], config=works[0].config.model_copy(update={"checkpoint_interval": 4, "sample_interval": 9})
    )
    assert already_done([elsewhere], registry)  # how it is kept and watched is no other work
    for change in ({"seed": 1}, {"steps": 11}, {"rank": 4}, {"workers": 2}):
        assert not already_done(
            [replace(works[0], config=works[0].config.model_copy(update=change))], registry
        )
    registry.remove("c0")
    assert not already_done(works, registry)


def test_everything_wrong_is_said_at_once(clips, sources, registry, tmp_path):
    entries = [
        entry(clips, "c0", 1),
        entry(clips, "nobody", 2),
        entry(clips, "mute", 3),
        entry(clips, "tiny", 4),
        entry(clips, "c1", 5, height=30),
        entry(str(tmp_path / "nowhere"), "c1", 6),
        entry(str(tmp_path / "nowhere"), "c2", 7),
        entry(clips, "c3", 8, foundation="nowhere/at/all"),
        entry(clips, "c4", 9, method="full", skip_spatial=0.2),
    ]
    with pytest.raises(Mistakes) as caught:
        make_plan(entries, "batch.yaml", registry, sources=Sources(foundations=sources.foundations))
    found = [(mistake.line, mistake.text) for mistake in caught.value.mistakes]
    expected = [
        (2, "nobody: no clips of concept 'nobody'"),
        (3, "has no caption"),
        (4, "smaller than 4x32x32"),
        (5, "multiple of 8"),
        (6, "no clips at"),
        (8, "neither a folder here nor a hub id"),
        (9, "no spatial pass; leave skip_spatial out"),
    ]
    assert [line for line, _ in found] == [line for line, _ in expected]
    for (_, text), (_, words) in zip(found, expected, strict=True):
        assert words in text
    assert "batch.yaml has 7 mistakes" in caught.value.message


def test_one_list_has_the_manifests_mistakes_all_of_an_entry_what_lanes_have_and_what_has_no_room(
    clips, sources, registry
):
    begun = [entry(clips, name, rank=8) for name in ("c0", "c1", "c2")]
    batch = open_batch(registry.storage, "b")
    enter(batch, make_plan(begun, "m", registry, sources=sources), {})
    for name in ("c0", "c1"):
        batch.claim("lane", suits=lambda record, name=name: record.name == name)
    entries = [
        entry(clips, "c0", 1, rank=4),
        entry(clips, "c1", 2, rank=4),
        entry(clips, "c2", 3, rank=4),  # nobody has it
        replace(entry(clips, "nobody", 4), refused=True),
        entry(clips, "gone", 5, foundation="nowhere/at/all"),
        entry(clips, "c3", 6, workers=3),
    ]
    with pytest.raises(Mistakes) as caught:
        make_plan(
            entries,
            "m",
            registry,
            sources=Sources(foundations=sources.foundations),
            records=batch.records(),
            check=room_check([{"CPU": 2}], 1),
            mistakes=[Mistake(4, "steps -1")],
        )
    found = [(mistake.line, mistake.text) for mistake in caught.value.mistakes]
    expected = [
        (1, "c0 is preparing with other data or settings"),
        (2, "c1 is preparing with other data or settings"),
        (4, "no clips of concept 'nobody'"),
        (4, "steps -1"),
        (5, "neither a folder here nor a hub id"),
        (5, "no clips of concept 'gone'"),
        (6, "needs 3 workers with 1 CPU each, but the cluster has room for 2"),
    ]
    assert [line for line, _ in found] == [line for line, _ in expected]
    for (_, text), (_, words) in zip(found, expected, strict=True):
        assert words in text


def test_nothing_is_entered_while_lanes_have_some_of_it_with_other_settings(clips, sources, registry):
    """Those that lanes took since the plan was made."""
    names = ("c0", "c1", "c2", "c3")
    batch = open_batch(registry.storage, "b")
    enter(batch, make_plan([entry(clips, n, rank=8) for n in names], "m", registry, sources=sources), {})
    c0, c1, c2, c3 = make_plan([entry(clips, n, rank=4) for n in names], "m", registry, sources=sources).works
    for name in ("c1", "c3"):
        batch.claim("lane", suits=lambda record, name=name: record.name == name)
    before = batch.records()
    plan = Plan((c2, c3), (Done(c0, "c0@1"), Done(c1, "c1@1")), (), 1)
    with pytest.raises(UserError, match=r"concept c3 is preparing .*\nconcept c1 is preparing") as caught:
        enter(batch, plan, {})
    assert (type(caught.value), caught.value.code) == (Conflict, "concept_busy")
    assert batch.records() == before


@pytest.mark.parametrize(
    ("settings", "workers", "said"),
    [
        ({"zero": 1, "workers": 2}, None, "lanes train at zero 0 or 3"),
        ({"zero": 3}, None, "one worker cannot shard the model"),
        ({"workers": 2}, 1, "asks for workers 2, but this lane has 1"),
    ],
)
def test_what_no_lane_can_train_is_a_mistake_of_the_plan(clips, sources, registry, settings, workers, said):
    with pytest.raises(Mistakes, match=said):
        make_plan([entry(clips, "c0", **settings)], "m", registry, sources=sources, workers=workers)


def test_lanes_of_several_workers_are_planned_with_their_share_of_the_base(clips, sources, registry):
    (whole,) = make_plan([entry(clips, "c0", workers=2)], "m", registry, sources=sources).packs
    (shared,) = make_plan([entry(clips, "c0", workers=2, zero=3)], "m", registry, sources=sources).packs
    assert shared.base_bytes == whole.base_bytes // 2
