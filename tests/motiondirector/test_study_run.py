"""A study that runs: each trial once, results in one file a table, and goes on where it stopped."""

import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.sprites.motions import NOVEL
from datasets.sprites.render import render_clip
from evaluation.store import Store
from infra.errors import UserError
from models.load import load_foundation
from motiondirector.study import records, videos
from motiondirector.study import run as running
from motiondirector.study.looks import full_prompts, open_prompts, reference_clips, reference_scenes
from motiondirector.study.plan import HELD_OUT, MAIN, Plan, Trial, trial_key
from motiondirector.study.report import sheet, tables_markdown
from motiondirector.study.run import found, keys_of
from motiondirector.study.tables import gather
from motiondirector.study.targets import targets
from motiondirector.study.trial import adapters_for, measure, run_trials, train
from motiondirector.study.videos import Order, base_videos, frames_file, generate, kept_frames, made_with
from training.recommended import recommendation

STUDY = Path(__file__).parents[2] / "docs" / "study"
TINY = "tiny-random:unet3d"
ONE_HOOK = ("--motion", "hook", "--references", "1", "--seeds", "1", "--captions", "class")


def tables_in(out):
    """The kinds of captions that have trials."""
    return sorted(path.stem for path in (out / "trials").glob("*.jsonl"))


def record(trial, key, **values):
    return {
        "key": key,
        "trial": asdict(trial),
        "settings": {},
        "values": values or {"motion_fidelity": [0.1, 0.1]},
        "seconds": {"train": 1.0, "packed": 2},
    }


# -------------------------------------------------------------------------------------------------------- records
def test_records_come_back_by_key_each_table_from_its_file(tmp_path):
    assert records.read(tmp_path, MAIN) == {}
    one, other = Trial("hook", 1, "dual", 0), Trial("hook", 1, "dual", 0, "full")
    records.append(tmp_path, [record(one, "a"), record(other, "b")])
    assert list(records.read(tmp_path, MAIN)) == ["a"]
    assert tables_in(tmp_path) == ["class", "full"]
    assert records.trial_of(records.read(tmp_path, "full")["b"]) == other
    assert len(list((tmp_path / "trials").iterdir())) == 2, "a file a table"


def test_a_line_that_a_killed_process_left_is_no_result_and_makes_room(tmp_path):
    trial = Trial("hook", 1, "dual", 0)
    records.append(tmp_path, [record(trial, "a")])
    path = records.file_of(tmp_path, MAIN)
    whole = path.read_bytes()
    for torn in (b'{"key": "b", "trial": {"mo', whole.rstrip(b"\n"), b"x" * 200_000):
        path.write_bytes(whole + torn)
        assert list(records.read(tmp_path, MAIN)) == ["a"]
        records.append(tmp_path, [record(trial, "c")])
        assert list(records.read(tmp_path, MAIN)) == ["a", "c"]
        path.write_bytes(whole)
    path.write_bytes(b"torn from the start")
    records.append(tmp_path, [record(trial, "d")])
    assert list(records.read(tmp_path, MAIN)) == ["d"]


def test_a_damaged_line_is_named(tmp_path):
    records.append(tmp_path, [record(Trial("hook", 1, "dual", 0), "a")])
    path = records.file_of(tmp_path, MAIN)
    for wrong in ("<<<<<<< HEAD", '{"key": "b"}', "[]"):
        path.write_text(path.read_text().splitlines()[0] + f"\n{wrong}\n")
        with pytest.raises(UserError, match="line 2 is not a trial's result"):
            records.read(tmp_path, MAIN)


def _append_many(out, name):
    for i in range(40):
        records.append(
            Path(out), [record(Trial("hook", 1, "dual", i), f"{name}{i}", motion_fidelity=[0.5] * 500)]
        )


def test_two_processes_that_write_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append_many, args=(str(tmp_path), name)) for name in "ab"]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert set(records.read(tmp_path, MAIN)) == {f"{name}{i}" for name in "ab" for i in range(40)}


def _hold(out, keys, held, release):
    with records.claimed(Path(out), keys, False) as ours:
        held.put(ours)
        release.wait(30)


def test_what_another_process_runs_is_left_to_it_until_it_ends_or_dies(tmp_path):
    context = multiprocessing.get_context("fork")
    held, release = context.Queue(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), ["a", "b"], held, release))
    other.start()
    assert held.get(timeout=30) is True
    with records.claimed(tmp_path, ["a", "b"], False) as ours:
        assert not ours
    with records.claimed(tmp_path, ["c"], False) as ours:
        assert ours, "other trials are free"
    other.kill()
    with records.claimed(tmp_path, ["a", "b"], True) as ours:
        assert ours
    other.join()
    assert tables_in(tmp_path) == []


def test_trials_that_another_command_has_are_waited_for_and_not_run_twice(tmp_path, monkeypatch):
    trial = Trial("hook", 1, "dual", 0)
    monkeypatch.setattr("motiondirector.study.trial.run_trials", lambda *_, **__: pytest.fail("run twice"))
    context = multiprocessing.get_context("fork")
    held, release = context.Queue(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), ["a"], held, release))
    other.start()
    assert held.get(timeout=30) is True
    assert running._run([trial], Plan(), ["a"], tmp_path, False) is False
    records.append(tmp_path, [record(trial, "a")])
    release.set()
    assert running._run([trial], Plan(), ["a"], tmp_path, True) is True
    other.join()


class InThisProcess(ThreadPoolExecutor):
    """In place of processes: their units run in a thread."""

    def __init__(self, jobs, **_):
        super().__init__(1)


def test_a_plan_comes_back_to_what_another_command_had(tmp_path, monkeypatch):
    calls = []

    def _run(unit, plan, keys, out, wait):
        calls.append((unit[0].method, wait))
        if calls[-1] == ("base", False):
            return False  # another command has it
        records.append(out, [record(trial, key) for trial, key in zip(unit, keys, strict=True)])
        return True

    monkeypatch.setattr(running, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(running, "_run", _run)
    plan = Plan(motions=("hook",), references=(1,), methods=("base", "dual"), captions=("class",), seeds=(0,))
    counted: list[int] = []
    results = running.run_plan(
        plan, tmp_path, fingerprint="f", on_done=lambda trial, done, total: counted.append(done)
    )
    assert calls == [("base", False), ("dual", False), ("base", True)]
    assert list(results) == plan.trials()
    assert counted == [1, 2]


def test_results_are_found_by_key_alone(tmp_path):
    plan = Plan(motions=("hook",), references=(1,), methods=("base", "dual"), captions=("class",), seeds=(0,))
    keys = keys_of(plan, "f")
    assert found(keys, tmp_path) == {}
    base, ours = keys
    records.append(tmp_path, [record(base, keys[base]), record(ours, "of other settings")])
    assert list(found(keys, tmp_path)) == [base]
    assert found(keys_of(plan, "of another foundation"), tmp_path) == {}


# ---------------------------------------------------------------------------------------------------- the base's videos
@pytest.fixture(scope="module")
def tiny():
    return load_foundation(TINY, device="cpu")


def test_the_bases_videos_of_equal_prompts_and_seeds_are_made_once(tiny, tmp_path, monkeypatch):
    made = []
    real = videos.generate

    def counted(foundation, orders, *more):
        made.extend(one for order in orders for one in order.asked)
        return real(foundation, orders, *more)

    monkeypatch.setattr(videos, "generate", counted)
    asked = [open_prompts(motion, 1, 0, "class", 4) for motion in ("hook", "spiral")]
    store = Store(tmp_path)
    first = base_videos(tiny, asked, {"dtype": "fp32"}, store)
    assert len(made) == len({one for of in asked for one in of}) < 8
    assert [len(of) for of in first] == [4, 4]
    again = base_videos(tiny, asked[:1], {"dtype": "fp32"}, store)
    assert len(made) == len(set(made))
    assert all((a == b).all() for a, b in zip(first[0], again[0], strict=True))
    base_videos(tiny, asked[:1], {"dtype": "bf16"}, store)
    assert len(made) == len(set(made)) + 4, "made otherwise is another video"


def test_videos_of_several_adapters_in_one_forward_are_those_of_each_alone(tiny):
    trials = [Trial("hook", 1, "coupled", 0), Trial("spiral", 1, "coupled", 0)]
    sets = train(trials, {"steps": 2, "rank": 2, "learning_rate": 0.1, "method": "coupled"}, tiny)
    asked = [full_prompts(t.motion, 1, 0, "class", 2) for t in trials]
    together = generate(tiny, [Order(a, s) for a, s in zip(asked, sets, strict=True)], batch_size=3)
    temporal = {"temporal": sets[0]["temporal"]}
    for prompts, tensors, of in zip(asked, sets, together, strict=True):
        [alone] = generate(tiny, [Order(prompts, tensors)])
        assert max(np.abs(a.astype(int) - b).max() for a, b in zip(alone, of, strict=True)) <= 1
    [half], [none] = generate(tiny, [Order(asked[0], temporal)]), generate(tiny, [Order(asked[0])])
    assert np.abs(half[0].astype(int) - together[0][0]).max() > 1, "one of two adapters is not both"
    assert np.abs(half[0].astype(int) - none[0]).max() > 1


# ------------------------------------------------------------------------------------------------------------- trials
def test_one_training_gives_coupled_and_its_temporal_adapter_alone(tiny, monkeypatch):
    plan = Plan(settings=(("rank", 2), ("steps", 1)))
    trials = [Trial("hook", 1, method, 0) for method in ("coupled", "coupled-temporal")]
    steps: list[int] = []
    both, seconds = adapters_for(trials, plan, tiny, lambda step, of: steps.append(step))
    assert steps == [1]
    assert seconds["packed"] == 1
    assert [set(one) for one in both] == [{"spatial", "temporal"}, {"temporal"}]
    assert both[0]["temporal"] is both[1]["temporal"]


def test_a_packed_trial_is_the_trial_alone_whatever_its_seed():
    foundation = load_foundation(None)
    pair = [Trial("hook", 1, "no-debias", 0), Trial("spiral", 1, "no-debias", 1)]
    settings = {"steps": 3, "rank": 2, "method": "no-debias", "generated_references": 0}
    steps: list[int] = []
    packed = train(pair, settings, foundation, lambda step, of: steps.append(step))
    assert steps == [1, 2, 3]
    for trial, tensors in zip(pair, packed, strict=True):
        [alone] = train([trial], settings, foundation)
        one, other = (
            torch.cat([half.flatten() for ab in found["temporal"].values() for half in ab])
            for found in (alone, tensors)
        )
        # AdamW's first steps divide by gradients near zero, which magnifies the rounding of larger batches.
        assert float((one - other).norm() / one.norm()) < 1e-4


def test_a_pack_is_not_trained_in_another_precision_than_its_settings_say(tiny):
    pair = [Trial("hook", 1, "dual", 0), Trial("spiral", 1, "dual", 0)]
    with pytest.raises(UserError, match="ask for dtype bf16, but the foundation was loaded in fp32"):
        train(pair, {"steps": 1, "rank": 2, "dtype": "bf16"}, tiny)


def test_a_record_holds_both_kinds_of_prompts_and_frames_only_where_asked(tiny, tmp_path):
    foundation = tiny
    plan = Plan(
        motions=("hook",),
        references=(1,),
        captions=("class",),
        methods=("base",),
        seeds=(0, 1),
        appearances=1,
        open_videos=2,
        generation=tuple(made_with(foundation, "fp32").items()),
        sheets=("hook",),
    )
    trials = plan.trials()
    keys = [trial_key(plan, trial, foundation.fingerprint) for trial in trials]
    done = run_trials(trials, plan, foundation, keys, tmp_path)
    assert [one["key"] for one in done] == keys
    for one in done:
        values = one["values"]
        assert len(values["motion_fidelity"]) == 1
        assert len(values["open_motion_fidelity"]) == len(values["open_reference_looks"]) == 2
        assert values["open_leakage"] == values["open_leakage_colour"] == [0.0, 0.0], (
            "the base against itself"
        )
        assert set(values["open_diversity"]) <= {1.0, None}
        assert values["open_leakage_shape"] == [None, None], "the prompt names it"
        json.dumps(one, allow_nan=False)
    first, second = (frames_file(tmp_path, trial.name) for trial in trials)
    assert first.is_file()
    assert not second.exists(), "frames are kept of the first seed"
    kept = kept_frames(first)
    assert len(kept) == 1 + 1 + 2
    [reference] = reference_clips("hook", 1, 0, "class")
    assert kept[0][0] == f"reference: {reference.caption}"
    assert (kept[0][1] == reference.video_FHWC).all()
    assert sheet(trials[:1], tmp_path) is not None
    assert sheet(trials[1:], tmp_path) is None


def test_without_videos_of_a_kind_nothing_is_said_of_it():
    assert measure([], [], []) == {}


# ------------------------------------------------------------------------------------------------------------ the command
def test_the_study_computes_in_the_precision_that_its_settings_say_and_goes_on(run, tmp_path):
    command = ["study", "--out", tmp_path, *ONE_HOOK, "--jobs", "1", "--foundation", TINY]
    command += ["--appearances", "1", "--open-videos", "2"]
    settings = ["--setting", "steps=1", "--setting", "rank=2", "--setting", "dtype=bf16"]

    def study(*methods, code=0):
        told = [word for method in methods for word in ("--method", method)]
        left, out, err = run(*command, *settings, *told, *(["--check"] if code else []))
        assert left == code, out + err
        return out

    study("base", "dual")
    there = records.read(tmp_path, MAIN)
    assert {one["trial"]["method"]: one["generation"]["dtype"] for one in there.values()} == {
        "base": "bf16",
        "dual": "bf16",
    }
    before = records.file_of(tmp_path, MAIN).read_bytes()
    settings[-1] = "dtype=bfloat16"  # the same, as torch calls it
    told = study("base", "dual", "coupled", "coupled-temporal", code=1)
    assert "motion fidelity of ours above base" in told, "one step teaches nothing"
    after = records.file_of(tmp_path, MAIN).read_bytes()
    assert after.startswith(before), "what was done is not done again"
    assert after.count(b"\n") == 4
    report = json.loads((tmp_path / "report.json").read_text())
    assert {c["method"] for c in report["cells"]} == {"base", "coupled", "coupled-temporal", "dual"}
    assert report["plan"]["captions"] == ["class"]
    assert (tmp_path / "sheets" / "hook-1.png").is_file()
    assert "Open prompts" in (tmp_path / "tables.md").read_text()


@pytest.mark.slow
def test_the_study_runs_on_the_embedded_foundation(run, tmp_path):
    command = [
        "study",
        "--out",
        tmp_path,
        *ONE_HOOK,
        "--jobs",
        "2",
        "--appearances",
        "2",
        "--open-videos",
        "2",
    ]
    settings = ["--setting", "steps=2", "--setting", "rank=2"]
    left, out, err = run(*command, *settings)
    assert left == 0, out + err
    kept = kept_frames(frames_file(tmp_path, Trial("hook", 1, "dual", 0).name))
    assert kept[1][1].shape == render_clip(reference_scenes("hook", 1, 0)[0], NOVEL["hook"]).shape


def test_a_report_of_some_trials_says_so_and_one_of_none_is_refused(run, tmp_path):
    command = ["study", "--out", tmp_path, *ONE_HOOK, "--report-only"]
    command += ["--method", "base", "--method", "dual"]
    before = {"report.json": "earlier", "tables.md": "earlier"}
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    left, out, err = run(*command)
    assert left != 0
    assert "contains none of the 2 results of this plan" in " ".join((out + err).split())
    assert {name: (tmp_path / name).read_text() for name in before} == before
    model = load_foundation(None, device="cpu", parts=())
    plan = Plan(
        motions=("hook",),
        references=(1,),
        methods=("base",),
        captions=("class",),
        seeds=(0,),
        generation=tuple(made_with(model, "fp32").items()),
    )
    [base] = plan.trials()
    records.append(tmp_path, [record(base, trial_key(plan, base, model.fingerprint))])
    kept = tmp_path / "sheets" / "hook-1.png"
    kept.parent.mkdir()
    kept.write_bytes(b"drawn where the frames were")
    left, out, err = run(*command)
    assert left == 0, out + err
    assert json.loads((tmp_path / "report.json").read_text())["trials"] == "1 of 2"
    assert "1 of 2 trials, **the others have no result yet**" in (tmp_path / "tables.md").read_text()
    assert kept.read_bytes() == b"drawn where the frames were"


# ------------------------------------------------------------------------------------------------------- the study in docs
def test_the_study_in_docs_is_of_the_embedded_foundation_and_says_with_which_settings():
    report, model = (
        json.loads((STUDY / "report.json").read_text()),
        load_foundation(None, device="cpu", parts=()),
    )
    assert report["foundation"]["fingerprint"] == model.fingerprint
    assert set(report["plan"]["motions"]) <= set(HELD_OUT)  # those that there were when it ran
    # Where the recommendation has moved on since, the page says what the study ran with.
    one, page = recommendation(model.recommended, 1), (STUDY.parent / "results.md").read_text()
    ran = report["plan"]["settings"]
    for name in {*one, *ran}:
        assert one.get(name) == ran.get(name) or f"`{name}`" in page, name


def test_the_tables_in_docs_are_those_of_the_trials_in_docs():
    report = json.loads((STUDY / "report.json").read_text())
    outcomes = {
        captions: gather((records.trial_of(one), one) for one in records.read(STUDY, captions).values())
        for captions in report["plan"]["captions"]
    }
    assert tables_in(STUDY) == sorted(outcomes)
    done, planned = map(int, report["trials"].split(" of "))
    assert done == sum(len(outcome.trials) for outcome in outcomes.values())
    reached = targets(outcomes)
    assert tables_markdown(outcomes, done, planned, reached) == (STUDY / "tables.md").read_text()
    assert report["targets"] == [asdict(target) for target in reached]
    assert len(report["cells"]) == sum(len(outcome.cells) for outcome in outcomes.values())
    for said in report["cells"]:
        cell = outcomes[said["captions"]].cells[said["references"], said["method"], said["metric"]]
        assert (said["mean"], said["half"]) == pytest.approx((cell.mean, cell.half))
