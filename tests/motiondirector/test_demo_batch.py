"""The batch demo: what it teaches, what it sees, what it calls a fault; and all of it on a tiny model."""

import io
import json
from dataclasses import asdict, replace

import pytest
from demos import none_left, relatives, start
from rich.console import Console

from datasets.clip_sets.clips import read_clips, read_facts
from datasets.sprites.motions import NOVEL
from infra.errors import UserError
from infra.registry import open_registry
from infra.storage import open_storage
from motiondirector.demo.crowd import crowd, damage, render, write_batch
from motiondirector.demo.page import write_batch_page
from motiondirector.demo.verdict import Row, faults_of, reasons_of, rows_of, table_of
from motiondirector.demo.watch import Watch, two_lanes_under_way
from training.batch.manifest.entries import read_manifest
from training.batch.manifest.plan import make_plan
from training.batch.run import enter
from training.batch.state.state import open_batch

CLIP = "c0ffee"


@pytest.mark.parametrize("good", [3, 24, 100])
def test_every_concept_has_a_name_of_its_own_and_a_motion_that_is_new(good):
    members = crowd(good)
    assert len({one.name for one in members}) == len(members) == good + 1
    assert all(one.motion.name in NOVEL for one in members)
    parts = [one.part for one in members]
    assert (parts.count("damaged"), parts.count("late"), parts[-1]) == (1, 1, "late")


@pytest.fixture
def ingested(tmp_path, run):
    """(members, URI of their clip set)."""
    (tmp_path / "clips").mkdir()
    members, data = crowd(3), str(tmp_path / "data")
    manifest = render(members, tmp_path / "clips")
    code, _, told = run(
        "ingest", manifest, "--windows", "1", "--to", data, "--foundation", "tiny-random:unet3d"
    )
    assert code == 0, told
    return members, data


def test_a_damaged_clip_passes_the_plan_and_is_named_when_it_is_read(ingested, tmp_path):
    members, data = ingested
    (bad,) = (one for one in members if one.part == "damaged")
    before = read_facts(data)
    (clip,) = damage(data, bad.name)
    assert read_facts(data) == before
    with pytest.raises(UserError, match=f"clip {clip} .* is corrupt"):
        read_clips(data, bad.name)
    for one in members:
        if one is not bad:
            assert [read.caption for read in read_clips(data, one.name)] == [one.caption]
    manifest = write_batch(members, data, tmp_path / "concepts.jsonl")
    entries = read_manifest(str(manifest), {"foundation": "tiny-random:unet3d"})
    plan = make_plan(entries, "m", open_registry(tmp_path / "registry"))
    assert {work.name for work in plan.works} == {one.name for one in members}


class Clock:
    now = 1_000.0

    def __call__(self):
        return self.now


def test_what_is_seen_of_a_batch_whose_lane_dies_and_the_rows_of_its_end(ingested, tmp_path):
    members, data = ingested
    first, second, bad, late = (one.name for one in members)
    assert [one.part for one in members] == ["good", "good", "damaged", "late"]
    registry, clock, said = open_registry(tmp_path / "registry"), Clock(), []
    batch = open_batch(registry.storage, "demo", clock=clock)
    manifest = write_batch([one for one in members if one.name != late], data, tmp_path / "concepts.jsonl")
    entries = read_manifest(str(manifest), {"foundation": "tiny-random:unet3d", "steps": 20})
    enter(batch, make_plan(entries, "m", registry), {"manifest": "m"})
    watch = Watch(batch, said.append)
    assert not two_lanes_under_way(watch())
    claims = {name: batch.claim(lane, suits=lambda r, name=name: r.name == name) for name, lane in (
        (first, "one"), (second, "two"), (bad, "one"),
    )}  # fmt: skip
    batch.checkpointed(claims[first], 10, f"checkpoints/{first}/10")
    assert not two_lanes_under_way(watch())
    batch.checkpointed(claims[second], 10, f"checkpoints/{second}/10")
    assert two_lanes_under_way(watch())

    batch.fail(claims[bad], f"clip {CLIP} is corrupt")
    batch.lapse("two")
    claims[second] = batch.claim("one")
    watch()
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    for name in (first, second):
        version = registry.publish(name, adapter, metadata={})
        batch.publish(claims[name], version.ref, step=20, loss=0.5)
    records = watch()
    assert [event["text"] for event in watch.events] == [
        "lane one trains",
        "lane two trains",
        f"{second}: its lane died; it continues from step 10",
        f"{bad}: failed clip {CLIP} is corrupt",
        f"{first}: published {first}@1",
        f"{second}: published {second}@1",
    ]
    scores = {"scores": {"motion fidelity": 0.5}, "error": None}
    rows = {row.concept: row for row in rows_of(members, records, {first: scores, second: scores}, registry)}
    assert rows[first].lanes == ("one",)
    assert (rows[second].lanes, rows[second].lost) == (("two", "one"), 1)
    assert rows[bad].reason == f"clip {CLIP} is corrupt"
    assert rows[late].status == "absent"
    (fault,) = faults_of(list(rows.values()), [CLIP])
    assert late in fault


def row(concept, part="good", **more):
    ref = f"{concept}@1"
    usual = Row(concept, part, "published", (ref,), ref, ("1",), 0, 50, 0.3, {"fidelity": 0.5}, None, None)
    return replace(usual, **more)


WELL = (
    row("a"),
    row("b", lanes=("1", "2"), lost=1),
    row("late", "late"),
    row("bad", "damaged", status="failed", versions=(), version=None, reason=f"clip {CLIP} is corrupt"),
)


def test_nothing_is_said_where_all_is_as_it_should_be():
    assert faults_of(WELL, [CLIP]) == []


@pytest.mark.parametrize(
    ("number", "change", "fault"),
    [
        (0, {"status": "failed", "reason": "no memory"}, "a should have been published; it is failed: no memory"),
        (0, {"status": "training"}, "it is training"),
        (0, {"versions": ("a@1", "a@2")}, "the registry has a@1, a@2"),
        (0, {"versions": ()}, "the registry has no version"),
        (0, {"unscored": "its process ended"}, "without scores: its process ended"),
        (0, {"scores": {}}, "without scores"),
        (1, {"lost": 0}, "no concept lost its lane"),
        (1, {"lanes": ("1", "1")}, "its record names no other lane"),
        (2, {"status": "absent"}, "it is absent"),
        (3, {"status": "published", "versions": ("bad@1",)}, "should have failed; it is published"),
        (3, {"reason": "out of memory"}, "without naming its damaged clip: out of memory"),
    ],
)  # fmt: skip
def test_each_thing_that_is_not_as_it_should_be_is_said(number, change, fault):
    rows = [replace(one, **change) if n == number else one for n, one in enumerate(WELL)]
    (said,) = faults_of(rows, [CLIP])
    assert fault in said


def test_the_table_has_a_row_for_every_concept():
    table = table_of(WELL)
    assert table.row_count == len(WELL)
    printed = Console(width=80, file=io.StringIO())
    printed.print(table)
    shown = printed.file.getvalue()
    for one in WELL:
        assert one.concept in shown
    assert f"{next(iter(WELL[0].scores.values())):.2f}" in shown


def test_why_a_concept_failed_or_has_no_scores_is_said_in_whole():
    unscored = replace(WELL[0], unscored="no metric suits it")
    assert reasons_of([WELL[3], unscored, WELL[0]]) == [
        f"{WELL[3].concept}: {WELL[3].reason}",
        f"{WELL[0].concept}: no metric suits it",
    ]


def test_the_page_shows_every_concept_its_clip_its_reason_and_what_is_not_as_it_should_be(tmp_path):
    (tmp_path / "clips").mkdir()
    members = crowd(3)
    render(members[:1], tmp_path / "clips")
    rows = [row(members[0].name), replace(WELL[3], concept=members[1].name)]
    report = {
        "concepts": [asdict(one) for one in rows],
        "captions": {one.name: one.caption for one in members},
        "stages": [{"name": "train", "seconds": 3.0}],
        "hardware": "2 CPU cores",
        "events": [{"seconds": 1.0, "text": "a node is killed"}],
        "faults": ["<b> is not as it should be"],
        "commands": ["motiondirector train-batch"],
        "versions": {"ray": "2"},
        "foundation": "sprites",
        "started_at": "today",
    }
    page = write_batch_page(report, tmp_path).read_text()
    for said in (
        *(one.concept for one in rows),
        members[0].caption,
        f"clip {CLIP} is corrupt",
        "a node is killed",
    ):
        assert said in page
    assert "&lt;b&gt; is not" in page
    assert page.count("<img") == 1  # of the one clip that is there


@pytest.mark.cluster
@pytest.mark.faults
def test_a_small_batch_outlives_a_node_a_damaged_clip_and_a_latecomer(tmp_path):
    out = tmp_path / "demo"
    child = start(out, "--concepts", "4", "--steps", "400", command="demo-batch")
    told, _ = child.communicate(timeout=580)
    try:
        assert child.returncode == 0, told[-4000:]
        assert none_left(out) == []
    finally:
        for process in relatives(out):
            process.kill()
    report = json.loads((out / "report.json").read_text())
    assert report["faults"] == []
    by_part = {}
    for one in report["concepts"]:
        by_part.setdefault(one["part"], []).append(one)
    assert {part: len(ones) for part, ones in by_part.items()} == {"good": 3, "late": 1, "damaged": 1}
    kept = open_registry(out / "registry")
    for one in by_part["good"] + by_part["late"]:
        assert one["status"] == "published"
        assert [version.ref for version in kept.versions(one["concept"])] == [one["version"]]
        assert one["scores"]
        assert (out / "evaluations" / one["concept"] / "samples" / "sheet.png").is_file()
    (bad,) = by_part["damaged"]
    assert (bad["status"], bad["versions"]) == ("failed", [])
    assert "is corrupt" in bad["reason"]
    assert f"{bad['concept']}.mp4" in bad["reason"]
    lost = [one for one in report["concepts"] if one["lost"]]
    assert lost
    assert all(len(set(one["lanes"])) > 1 for one in lost)
    table = told[told.rindex(" status ") :]  # of the heading
    assert all(one["concept"] in table for one in report["concepts"])
    assert f"{bad['concept']}: {bad['reason']}" in table
    page = (out / "index.html").read_text()
    assert all(one["concept"] in page for one in report["concepts"])
    assert {record.name for record in open_batch(open_storage(out / "registry"), "demo").records()} == {
        one["concept"] for one in report["concepts"]
    }
