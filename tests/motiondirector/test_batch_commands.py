"""`motiondirector train-batch` and `motiondirector runs`."""

import io
import json
import pickle
import re
from contextlib import nullcontext

import pytest
from clip_sets import sliding_clips, write_set
from typer.testing import CliRunner

from infra.registry import open_registry
from motiondirector.cli import build
from training.batch.profile.profile import Profile
from training.batch.watch.validation import Validator


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    write_set(tmp_path / "clips", *sliding_clips("a", count=1), *sliding_clips("b", count=1))
    (tmp_path / "batch.yaml").write_text(
        "defaults: {data: clips, foundation: 'tiny-random:wan', frames: 5, height: 32, width: 32, rank: 4, steps: 2}\n"
        "concepts:\n  - a\n  - {concept: b, steps: 3}\n"
    )
    return tmp_path


def cli(*arguments):
    return CliRunner().invoke(build(), [*arguments])


def shown(*arguments):
    result = cli(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


class Here:
    """Validates in this process: a child would load torch and diffusers once more (tests/training/batch/test_validation.py)."""

    def __init__(self, batch, registry, validate):
        self.validator = Validator(batch, registry, pickle.loads(pickle.dumps(validate)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def finish(self, stopping):
        self.validator.run(stopping, lambda: True)


def test_a_batch_from_the_plan_to_the_registry(place, monkeypatch):
    monkeypatch.setattr("training.batch.run.Validating", Here)
    plan = shown("train-batch", "batch.yaml", "--registry", "reg", "--dry-run")
    assert "2 concepts to train in 1 packs on 1 lane; 0 already done" in plan
    assert not (place / "reg").exists()
    (place / "prompts.csv").write_text("prompt,concept\na red star,\na blue cross,b\n")
    evaluated = ("--prompts", "prompts.csv", "--evaluate-steps", "1")
    ended = shown("train-batch", "batch.yaml", "--registry", "reg", *evaluated)
    assert "a: published a@1" in ended
    assert "motion fidelity" in ended
    assert {info.name for info in open_registry("reg").concepts()} == {"a", "b"}
    assert "0 concepts to train in 0 packs" in shown(
        "train-batch", "batch.yaml", "--registry", "reg", "--dry-run"
    )
    assert json.loads(shown("runs", "list", "--registry", "reg", "--json")) == {"batch": {"published": 2}}
    one = json.loads(shown("runs", "show", "batch", "b", "--registry", "reg", "--json"))
    assert (one["status"], one["version"], one["step"], one["lane"]) == ("published", "b@1", 3, None)
    assert one["evaluation"]["error"] is None
    assert one["evaluation"]["scores"]
    assert "published" in shown("runs", "show", "batch", "--registry", "reg")
    assert "published b@1" in shown("runs", "logs", "batch", "b", "--registry", "reg")
    assert "loading tiny-random:wan" in shown("runs", "logs", "batch", "--registry", "reg")
    lines = json.loads(shown("runs", "logs", "batch", "a", "--tail", "1", "--registry", "reg", "--json"))
    assert [line["text"] for line in lines] == ["published a@1"]
    told = shown("runs", "show", "batch", "b", "--registry", "reg")
    assert "published  b@1" in told
    assert "motion fidelity" in told
    evaluation = json.loads(shown("concepts", "show", "b", "--registry", "reg", "--json"))["metrics"][
        "evaluation"
    ]
    assert evaluation["prompts"] == 2
    assert "concepts pull --samples" in shown("concepts", "show", "b", "--registry", "reg")
    shown("concepts", "pull", "b", "--registry", "reg", "--to", "b", "--samples")
    assert sorted(path.name for path in (place / "b" / "evaluation" / "samples").iterdir()) == [
        "001.mp4",
        "002.mp4",
        "sheet.png",
    ]
    assert (place / "b" / "evaluation" / "index.html").is_file()


def test_the_plan_says_what_stays_as_it_ended_and_what_to_do(place):
    from infra.storage import open_storage
    from training.batch.manifest.entries import read_manifest
    from training.batch.manifest.plan import make_plan
    from training.batch.run import enter
    from training.batch.state.state import open_batch

    batch = open_batch(open_storage("reg"), "batch")
    enter(batch, make_plan(read_manifest("batch.yaml"), "batch.yaml", open_registry("reg")), {})
    batch.fail(batch.claim("lane", suits=lambda record: record.name == "a"), "clip 3 is [corrupt]")
    batch.cancel("b")
    before = batch.records()
    plan = shown("train-batch", "batch.yaml", "--registry", "reg", "--dry-run")
    assert "0 concepts to train in 0 packs on 1 lane; 0 already done; 2 failed or cancelled before" in plan
    assert (
        "a: failed before (clip 3 is [corrupt]); to train it again, run motiondirector runs retry batch a"
        in plan
    )
    assert "b: cancelled before; to train it again, run motiondirector runs retry batch b" in plan
    assert batch.records() == before
    shown("runs", "retry", "batch", "b", "--registry", "reg")
    plan = shown("train-batch", "batch.yaml", "--registry", "reg", "--dry-run")
    assert "1 concepts to train in 1 packs on 1 lane; 0 already done; 1 failed or cancelled before" in plan
    # As an error may ask: with other settings it is another work, and is trained.
    plan = shown("train-batch", "batch.yaml", "--registry", "reg", "--dry-run", "--setting", "seed=5")
    assert "2 concepts to train in 1 packs on 1 lane; 0 already done" in plan
    assert "failed or cancelled before" not in plan
    (row,) = [line.split() for line in plan.splitlines() if "2: " in line]
    assert {"5x32x32", "dual", "4"} <= set(row)  # what packs are made by
    assert "foundation: tiny-random:wan" in plan
    (place / "batch.yaml").write_text(
        "defaults: {data: clips, frames: 5, height: 32, width: 32, rank: 4, steps: 2}\n"
        "concepts:\n  - {concept: a, foundation: 'tiny-random:wan'}\n"
        "  - {concept: b, foundation: 'tiny-random:unet3d', frames: 4}\n"
    )
    plan = shown("train-batch", "batch.yaml", "--registry", "reg", "--dry-run", "--name", "other")
    rows = {line.split()[4]: line for line in plan.splitlines() if "1: " in line}
    assert "tiny-random:wan" in rows["a"]
    assert "tiny-random:unet3d" in rows["b"]


def test_failed_concepts_are_an_exit_code_unless_it_is_to_be_zero(place):
    from infra.storage import open_storage
    from training.batch.manifest.entries import read_manifest
    from training.batch.manifest.plan import make_plan
    from training.batch.run import enter
    from training.batch.state.state import open_batch

    batch = open_batch(open_storage("reg"), "batch")
    enter(batch, make_plan(read_manifest("batch.yaml"), "batch.yaml", open_registry("reg")), {})
    batch.fail(batch.claim("lane", suits=lambda record: record.name == "a"), "clip 3 is corrupt")
    batch.cancel("b")
    command = ("train-batch", "batch.yaml", "--registry", "reg", "--no-evaluate")
    assert cli(*command).exit_code == 1
    assert "clip 3 is corrupt" in shown(*command, "--exit-zero")
    (place / "batch.yaml").write_text("concepts:\n  - {concept: a, data: clips, steps: -1}\n")
    assert cli(*command, "--exit-zero").exit_code == 1  # nothing was trained


def test_waiting_concepts_are_cancelled_and_tried_again(place):
    from infra.storage import open_storage
    from training.batch.manifest.entries import read_manifest
    from training.batch.manifest.plan import make_plan
    from training.batch.run import enter
    from training.batch.state.state import open_batch

    plan = make_plan(read_manifest("batch.yaml"), "batch.yaml", open_registry("reg"))
    enter(open_batch(open_storage("reg"), "batch"), plan, {})
    assert "a: cancelled" in shown("runs", "cancel", "batch", "a", "--registry", "reg")
    assert "a: queued" in shown("runs", "retry", "batch", "a", "--registry", "reg")
    assert shown("runs", "cancel", "batch", "--all", "--registry", "reg").count("cancelled") == 2
    for arguments, words in (
        (("cancel", "batch", "a", "--all"), "expected either concepts or --all"),
        (("cancel", "batch", "nobody"), "nobody is not in the batch"),
        (("show", "other"), "no batch at"),
        (("logs", "batch", "a"), "no log lines of a in batch batch"),
        (("logs", "batch", "nobody"), "nobody is not in the batch"),
        (("logs", "batch", "--json", "--follow"), "--json prints one complete answer"),
    ):
        result = cli("runs", *arguments, "--registry", "reg")
        assert words in result.exception.message


def test_a_concept_that_ends_while_all_are_cancelled_stops_no_other(place, monkeypatch):
    from infra.storage import open_storage
    from training.batch.manifest.entries import read_manifest
    from training.batch.manifest.plan import make_plan
    from training.batch.run import enter
    from training.batch.state.state import BatchState, open_batch

    plan = make_plan(read_manifest("batch.yaml"), "batch.yaml", open_registry("reg"))
    batch = open_batch(open_storage("reg"), "batch")
    enter(batch, plan, {})
    cancel = BatchState.cancel
    first, second = (record.name for record in batch.records())

    def ends_meanwhile(self, name):
        if name == first:
            batch.fail(batch.claim("lane", suits=lambda record: record.name == first), "it could not be read")
        return cancel(self, name)

    monkeypatch.setattr(BatchState, "cancel", ends_meanwhile)
    told = shown("runs", "cancel", "batch", "--all", "--registry", "reg")
    assert told == f"{first}: now failed, skipped\n{second}: cancelled\n"
    monkeypatch.setattr(BatchState, "cancel", cancel)
    named = cli("runs", "cancel", "batch", first, "--registry", "reg")
    assert f"{first} is already failed" in named.exception.message


def test_mistakes_are_one_list_and_nothing_starts(place):
    (place / "batch.yaml").write_text("concepts:\n  - {concept: a, data: clips, steps: -1}\n  - concept: b\n")
    result = cli("train-batch", "batch.yaml", "--registry", "reg")
    assert result.exit_code == 1
    assert "line 2: steps -1" in result.exception.message
    assert "line 3: data is missing" in result.exception.message
    assert not (place / "reg").exists()
    for arguments, words in (
        (("--lanes", "many"), "--lanes 'many': expected a number from 1 to 1024, or auto"),
        (("--pack", "65"), "--pack '65': expected a number from 1 to 64, or auto"),
        (("--cpus-per-lane", "2"), "--cpus-per-lane 2: the only lane is this process"),
        (("--encoder-gpus", "0.5"), "--encoder-gpus 0.5: the only lane is this process"),
    ):
        (place / "batch.yaml").write_text("concepts:\n  - {concept: a, data: clips}\n")
        assert words in cli("train-batch", "batch.yaml", "--registry", "reg", *arguments).exception.message


@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_what_only_the_plan_finds_is_in_the_same_list(place, dry):
    """A wrong setting, a concept that is not there (of the same line, too), and more workers than there is room for."""
    (place / "batch.yaml").write_text(
        "defaults: {data: clips, foundation: 'tiny-random:wan', frames: 5, height: 32, width: 32}\n"
        "concepts:\n  - {concept: nobody, steps: -1}\n  - {concept: a, rank: 0}\n  - {concept: b, workers: 2}\n"
    )
    result = cli("train-batch", "batch.yaml", "--registry", "reg", *dry)
    lines = result.exception.message.splitlines()
    assert "batch.yaml has 4 mistakes; nothing was started" in lines[0]
    for line, words in zip(
        lines[1:],
        (
            "line 3: nobody: no clips of concept 'nobody'",
            "line 3: steps -1",
            "line 4: rank 0",
            "line 5: b: concept b asks for workers 2",
        ),
        strict=True,
    ):
        assert words in line
    assert not (place / "reg").exists()


def test_a_dry_run_knows_how_many_workers_this_machine_has_room_for(place):
    (place / "batch.yaml").write_text(
        "defaults: {data: clips, foundation: 'tiny-random:wan', frames: 5, height: 32, width: 32}\n"
        "concepts:\n  - {concept: a, workers: 64}\n"
    )
    result = cli("train-batch", "batch.yaml", "--registry", "reg", "--lanes", "2", "--dry-run")
    assert "line 3: a: a lane for a needs 64 workers" in result.exception.message


def test_a_dry_run_plans_for_any_number_of_lanes(place):
    plan = shown("train-batch", "batch.yaml", "--registry", "reg", "--dry-run", "--lanes", "2", "--pack", "1")
    assert "2 concepts to train in 2 packs on 2 lanes" in plan


def test_on_ray_lanes_measure_their_devices_where_packs_are_to_suit_them_and_nothing_else_says_how_large(
    place, monkeypatch
):
    asked = []

    def train_on_ray(batch, registry, name, **options):
        asked.append((options["measure"], options["pack"], options["profile"] is not None))
        return batch.records()

    nodes = [{"CPU": 8.0}]
    monkeypatch.setattr("motiondirector.batch.lanes.cluster", lambda *_: nullcontext((2, nodes)))
    monkeypatch.setattr("training.batch.cluster.ray_lanes.train_on_ray", train_on_ray)
    (place / "profile.json").write_text(Profile("a device", 1 << 30, 1.0).encode())
    batch = ("train-batch", "batch.yaml", "--registry", "reg", "--lanes", "2", "--no-evaluate")
    for options in ((), ("--pack", "auto"), ("--pack", "2"), ("--pack", "auto", "--profile", "profile.json")):
        shown(*batch, *options)
    assert asked == [(False, None, False), (True, None, False), (False, 2, False), (False, None, True)]
    refused = cli(*batch, "--profile", "auto").exception.message
    assert "use --pack auto, so that lanes measure their own devices" in refused


def test_a_live_table_has_who_trains_first_and_says_what_ended():
    from rich.console import Console

    from infra.storage.leases import Lease
    from motiondirector.batch.screen import BatchScreen, status_table
    from training.batch.state.record import Record
    from training.batch.watch.watcher import LaneState

    def record(name, status, **told):
        return Record(name, {}, "h", 0, 0, status=status, steps=100, **told)

    records = [
        record("done", "published", version="done@1", step=100),
        record("waits", "queued"),
        record("now", "training", step=40, step_seconds=2.0, lease=Lease("l1", "t", 0)),
        record("bad", "failed", reason="clip 3 is [corrupt]"),
    ]
    console = Console(width=160, record=True, file=io.StringIO())
    lanes = [LaneState("l1", 1, host="h1"), LaneState("l2", 1)]
    console.print(status_table(records, lanes, rows=3))
    text = console.export_text()
    assert "1 queued, 1 training, 1 published, 1 failed; lanes: 1 running, 1 starting" in " ".join(
        text.split()
    )
    assert text.index("now") < text.index("waits")
    assert "2:00" in text
    assert "and 1 more" in text
    now = [0.0]
    with BatchScreen(console, lambda: now[0]) as screen:
        screen(records, lanes)
        screen(records, lanes)
        screen(records, [])
        for now[0] in (29.0, 31.0, 70.0):  # where there is no table, how it stands: seldom, and if it changed
            screen(records, [])
    assert console.export_text().splitlines() == [
        "done: published done@1",
        "bad: failed clip 3 is [corrupt]",
        "lane l1 runs on h1",
        "lane l1 has ended",
        "lane l2 has ended",
        "1 queued, 1 training, 1 published, 1 failed; lanes: 0 running, 0 starting; now 40/100 2:00 left",
    ]


def test_a_batch_in_this_process_has_the_live_table_too(place, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    output = shown("train-batch", "batch.yaml", "--registry", "reg", "--no-evaluate")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)
    assert "2 queued; lanes: 1 running, 0 starting" in text
    assert "a: published a@1" in text
    assert text.index("2 queued") < text.index("loading tiny-random:wan") < text.index("2 published; lanes")
