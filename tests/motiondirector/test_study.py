"""The study: fair comparisons, honest tables, and a run that goes on where it stopped."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.sprites.motions import NOVEL
from datasets.sprites.render import render_clip
from evaluation.metrics import reference_ceiling
from evaluation.metrics.sights import tracked
from infra.errors import UserError
from models.load import load_foundation
from motiondirector.study.check import bounds
from motiondirector.study.plan import (
    GENERATION,
    HELD_OUT,
    METHODS,
    REFERENCES,
    TUNED,
    Plan,
    Trial,
    asked_scenes,
    reference_scenes,
)
from motiondirector.study.report import observed, pairs, sheet, tables_markdown
from motiondirector.study.run import folders_of, found, read_results, settings_of, units
from motiondirector.study.tables import Outcome, cell, gather, targets
from motiondirector.study.trial import made_with, prompts, reference_clips, train
from training.config import recommendation

STUDY = Path(__file__).parents[2] / "docs" / "study"

ONE_HOOK = ("--motion", "hook", "--references", "1", "--seeds", "1")  # one concept of one clip, once


def test_what_is_reported_was_never_tuned_on():
    assert not set(TUNED) & set(HELD_OUT)
    assert set(TUNED) | set(HELD_OUT) == set(NOVEL)
    assert len(HELD_OUT) >= 13


@pytest.mark.parametrize("references", [1, 4, 6])
@pytest.mark.parametrize("seed", range(3))
def test_asked_appearances_share_nothing_with_the_reference_clips(references, seed):
    trial = Trial("spiral", references, "dual", seed)
    shown, asked = reference_scenes(trial), asked_scenes(trial, 10)
    assert len(shown) == references
    assert len({scene.appearance for scene in asked}) == len(asked) == 10
    for field in (lambda s: s.sprite.colour, lambda s: s.sprite.shape, lambda s: s.background.colour):
        assert not {field(s) for s in shown} & {field(s) for s in asked}


def test_every_method_gets_the_same_clips_and_prompts():
    trials = [Trial("hook", 4, method, 1) for method in METHODS]
    first = reference_clips(trials[0])
    for trial in trials[1:]:
        assert prompts(trial, 5) == prompts(trials[0], 5)
        for one, other in zip(first, reference_clips(trial), strict=True):
            assert (one.video_FHWC == other.video_FHWC).all()
    assert prompts(Trial("hook", 4, "dual", 2), 5) != prompts(trials[0], 5)


def test_captions_may_leave_the_appearance_to_be_learned():
    trial = Trial("hook", 1, "dual", 0)
    (full,), (bare,) = reference_clips(trial), reference_clips(trial, captions="motion")
    assert (full.video_FHWC == bare.video_FHWC).all()
    assert bare.caption == NOVEL["hook"].phrases[0]
    assert bare.caption in full.caption
    assert len(full.caption) > len(bare.caption)
    places = [
        folders_of(Plan(motions=("hook",), captions=said), Path("out"), "f")[trial]
        for said in ("full", "motion")
    ]
    assert len(set(places)) == 2
    with pytest.raises(UserError, match="kind of captions"):
        Plan(captions="none")


@pytest.mark.parametrize("references", REFERENCES)
@pytest.mark.parametrize("seed", range(3))
def test_the_tracker_sees_every_reference_of_the_study_but_two(references, seed):
    unseen = {
        ("figure-eight", 1, 2): [0],  # a white square on mint
        ("corkscrew", 4, 2): [3],  # a white heart on lavender
    }
    for motion in HELD_OUT:
        trial = Trial(motion, references, "dual", seed)
        lost = [
            i
            for i, reference in enumerate(reference_clips(trial))
            if not tracked(reference.video_FHWC[[0, 3, 7]]).present
        ]
        assert lost == unseen.get((motion, references, seed), []), trial.concept


def test_what_the_references_score_against_one_another_is_one():
    for motion in HELD_OUT:
        ceiling = reference_ceiling(reference_clips(Trial(motion, 4, "dual", 0)))
        assert ceiling is not None
        assert ceiling > 0.999, motion  # so a share of their score is the score itself (`targets`)


def test_an_unknown_motion_or_method_is_refused():
    with pytest.raises(UserError, match="moonwalk"):
        Plan(motions=("moonwalk",))
    with pytest.raises(UserError, match="prayer"):
        Plan(methods=("prayer",))
    with pytest.raises(UserError, match="1 to 6"):
        Plan(references=(9,))


def test_a_cell_has_students_interval():
    three = cell([1.0, 2.0, 3.0])
    assert three is not None
    assert three.mean == 2
    assert three.half == pytest.approx(4.303 * 1 / np.sqrt(3), abs=1e-3)
    alone = cell([0.5])
    assert alone is not None
    assert (alone.mean, alone.half, str(alone)) == (0.5, 0.0, "0.50")
    assert cell([]) is None


def result(fidelity, leak, accuracy=0.9, present=1.0):
    values = {
        "motion_fidelity": [fidelity, fidelity],
        "appearance_leakage": [leak, None],
        "appearance_accuracy": [accuracy, accuracy],
        "object_presence": [present, present],
    }
    return {"values": values, "seconds": {"train": 60.0}}


def outcome(**methods) -> Outcome:
    """Of two motions, which differ by 0.02 in what each method has of them."""
    return gather(
        (Trial(motion, 1, method.replace("_", "-"), 0), result(fidelity + more, *rest))
        for method, (fidelity, *rest) in methods.items()
        for motion, more in (("spiral", -0.01), ("hook", 0.01))
    )


def test_targets_are_met_by_a_method_that_does_what_is_claimed():
    told = targets(outcome(base=(0.1, 0.0), coupled=(0.9, 0.4), no_debias=(0.8, 0.1), dual=(0.9, 0.1)))
    assert all(target.met for target in told), [t for t in told if not t.met]
    assert len(told) == 8


def test_targets_are_missed_by_a_method_that_does_not():
    told = targets(
        outcome(base=(0.3, 0.0), coupled=(0.9, 0.1), no_debias=(0.8, 0.1), dual=(0.5, 0.2, 0.6, 0.5))
    )
    missed = {target.what.split(": ")[1] for target in told if not target.met}
    assert len(missed) == 7
    assert "minutes to customize on one process of the study" not in missed


def test_a_motion_is_one_observation_however_many_trials_it_has():
    def of(trials):
        return gather((Trial(motion, 1, "dual", seed), result(x, 0.0)) for motion, seed, x in trials)

    known = [("spiral", 0, 0.2), ("spiral", 1, 0.4), ("hook", 0, 0.8), ("arc", 0, 0.7)]
    found = of(known).cells[1, "dual", "motion_fidelity"]
    expected = cell([0.3, 0.8, 0.7])
    assert expected is not None
    assert (found.mean, found.half, found.count) == pytest.approx((0.6, expected.half, 3))
    alone = of(known[:2])
    assert (
        alone.cells[1, "dual", "motion_fidelity"] == alone.by_motion[1, "dual", "motion_fidelity", "spiral"]
    )
    assert alone.cells[1, "dual", "motion_fidelity"] == cell([0.2, 0.4])
    assert "one motion" in observed(alone)
    assert "over the motions" in observed(of(known))


def test_methods_are_compared_trial_against_trial():
    values = {
        ("spiral", 0): (0.9, 0.8),
        ("spiral", 1): (0.3, 0.1),
        ("hook", 0): (0.5, 0.4),
        ("arc", 0): (None, 0.9),  # without a pair
    }
    found = gather(
        (Trial(motion, 1, method, seed), result(x, 0.0) if x else {**result(0, 0), "values": {}})
        for (motion, seed), pair in values.items()
        for method, x in zip(("dual", "no-debias"), pair, strict=True)
    )
    apart = found.paired(1, "dual", "no-debias", "motion_fidelity")
    expected = cell([0.15, 0.1])
    assert apart is not None
    assert expected is not None
    assert (apart.mean, apart.half, apart.count) == pytest.approx((0.125, expected.half, 2))
    assert found.paired(1, "dual", "coupled", "motion_fidelity") is None
    header, row = pairs(found, 1)
    assert (header[0], row[1]) == ("ours minus", apart.told("+.2f"))


@pytest.mark.parametrize(
    ("ours", "met"),
    [
        ([(0.62, 0.1), (0.84, 0.1), (0.43, 0.1)], True),
        ([(0.62, 0.1), (0.84, 0.2), (0.43, 0.1)], False),  # but it leaks more
        ([(0.52, 0.1), (0.90, 0.1), (0.42, 0.1)], False),  # better in the mean, by one motion
        ([(0.58, 0.1), (0.76, 0.1), (0.38, 0.1)], False),
        ([(0.60, 0.02), (0.80, 0.04), (0.40, 0.03)], True),  # less leakage at equal motion
        ([(0.55, 0.02), (0.75, 0.04), (0.35, 0.03)], False),
    ],
)
def test_debiasing_is_better_only_where_the_interval_of_its_gain_says_so(ours, met):
    without = [(0.6, 0.1), (0.8, 0.1), (0.4, 0.1)]
    found = gather(
        (Trial(motion, 1, method, 0), result(*given))
        for method, of in (("dual", ours), ("no-debias", without))
        for motion, given in zip(("spiral", "hook", "arc"), of, strict=True)
    )
    [verdict] = [target for target in targets(found) if "debiased" in target.what]
    assert verdict.met == met, verdict
    assert "±" in verdict.reached


def test_one_pair_of_trials_decides_nothing():
    found = gather((Trial("hook", 1, m, 0), result(x, 0.0)) for m, x in (("dual", 0.9), ("no-debias", 0.1)))
    [verdict] = [target for target in targets(found) if "debiased" in target.what]
    assert not verdict.met


@pytest.mark.parametrize(
    ("ours", "missed"),
    [
        ((0.5, 0.25), None),
        ((0.2, 0.0), "motion fidelity"),
        ((0.5, 0.375), "leakage"),
        ((0.5, 0.0, 0.9, 0.625), "object in every frame"),
    ],
)
def test_the_bounds_of_a_small_study_tell_what_is_broken(ours, missed):
    found = bounds(outcome(base=(0.1, 0.0), dual=ours))
    assert len(found) == 3
    assert [
        bound.what.split(": ")[1].split(" of ours")[0].split(",")[0] for bound in found if not bound.met
    ] == ([missed] if missed else [])


def test_what_was_not_measured_keeps_no_bound():
    assert not any(bound.met for bound in bounds(outcome(coupled=(0.9, 0.0))))


def test_values_that_could_not_be_measured_do_not_count():
    found = outcome(dual=(0.7, 0.25))
    assert found.mean(1, "dual", "appearance_leakage") == 0.25
    assert np.isnan(found.mean(1, "coupled", "motion_fidelity"))


@pytest.mark.slow
def test_the_study_runs_and_goes_on_where_it_stopped(run, tmp_path):
    def study(*more, code=0):
        command = ["study", "--out", tmp_path, "--motion", "hook"]
        small = ["--references", "1", "--seeds", "1", "--appearances", "2", "--jobs", "1"]
        settings = ["--setting", "steps=2", "--setting", "rank=2"]
        left, out, err = run(*command, *small, *settings, *more)
        assert left == code, out + err
        return out

    study("--method", "base", "--method", "dual")
    results = {path: path.stat().st_mtime_ns for path in tmp_path.glob("trials/*/result.json")}
    assert len(results) == 2
    told = study("--method", "base", "--method", "dual", "--method", "coupled", "--check", code=1)
    assert "motion fidelity of ours above base │ at least 0.30" in told, "two steps teach nothing"
    again = {path: path.stat().st_mtime_ns for path in tmp_path.glob("trials/*/result.json")}
    assert len(again) == 3
    assert all(again[path] == time for path, time in results.items())
    report = json.loads((tmp_path / "report.json").read_text())
    assert {c["method"] for c in report["cells"]} == {"base", "coupled", "dual"}
    assert (tmp_path / "sheets" / "hook-1.png").is_file()
    assert "motion fidelity" in (tmp_path / "tables.md").read_text()
    frames = np.load(next(path for path in results if "-dual-" in str(path)).parent / "frames.npz")
    trial = Trial("hook", 1, "dual", 0)
    assert (frames["references"][0] == reference_clips(trial)[0].video_FHWC).all()
    assert frames["videos"].shape == (2, *render_clip(reference_scenes(trial)[0], NOVEL["hook"]).shape)


def test_the_study_computes_in_the_precision_that_its_settings_say(run, tmp_path):
    command = ["study", "--out", tmp_path, *ONE_HOOK, "--jobs", "1"]
    asked = [
        "--appearances",
        "1",
        "--method",
        "base",
        "--method",
        "dual",
        "--foundation",
        "tiny-random:unet3d",
    ]
    settings = ["--setting", "steps=1", "--setting", "rank=2", "--setting", "dtype=bf16"]
    left, out, err = run(*command, *asked, *settings)
    assert left == 0, out + err
    results = [json.loads(path.read_text()) for path in tmp_path.glob("trials/*/result.json")]
    assert {one["trial"]["method"]: one["generation"]["dtype"] for one in results} == {
        "base": "bf16",
        "dual": "bf16",
    }


def test_a_pack_is_not_trained_in_another_precision_than_its_settings_say():
    pair = [Trial("hook", 1, "dual", 0), Trial("spiral", 1, "dual", 0)]
    references = [reference_clips(trial) for trial in pair]
    with pytest.raises(UserError, match="ask for dtype bf16, the foundation was loaded in fp32"):
        train(
            pair,
            {"steps": 1, "rank": 2, "dtype": "bf16"},
            load_foundation(None, device="cpu"),
            references,
            lambda step, of: None,
        )


def test_trials_of_several_clips_have_settings_of_their_own():
    plan = Plan(settings=(("rank", 16), ("skip_spatial", 0.3), ("steps", 200)), several=(("steps", 400),))
    of = {
        (count, method): settings_of(plan, Trial("hook", count, method, 0))
        for count in (1, 4)
        for method in ("base", "coupled", "dual")
    }
    assert of[1, "dual"] == {"rank": 16, "skip_spatial": 0.3, "steps": 200}
    assert of[4, "dual"] == {"rank": 16, "skip_spatial": 0.3, "steps": 400}
    assert of[4, "coupled"] == {"rank": 16, "steps": 400}
    assert of[1, "base"] == of[4, "base"] == {}


def documented(**other):
    """The plan of the study in docs, its videos made otherwise where `other` says so."""
    told = json.loads((STUDY / "report.json").read_text())["plan"]
    return Plan(
        **{name: tuple(value) for name, value in told.items() if isinstance(value, list)},
        settings=tuple(told["settings"].items()),
        several=tuple(told.get("several", {}).items()),
        generation=tuple({**GENERATION, **other}.items()),
    )


def test_the_study_in_docs_is_of_the_embedded_foundation_as_it_is_recommended():
    report, model = (
        json.loads((STUDY / "report.json").read_text()),
        load_foundation(None, device="cpu", parts=()),
    )
    assert report["foundation"]["fingerprint"] == model.fingerprint
    assert set(report["plan"]["motions"]) <= set(HELD_OUT)  # those that there were when it ran
    one, many = (recommendation(model.recommended, clips) for clips in (1, 4))
    assert report["plan"]["settings"] == one
    assert {**one, **report["plan"].get("several", {})} == many


def test_the_tables_in_docs_are_those_of_the_trials_in_docs():
    report = json.loads((STUDY / "report.json").read_text())
    plan = documented()
    done = found(plan, STUDY, report["foundation"]["fingerprint"])
    outcome = gather(read_results(done))
    reached = targets(outcome)
    assert (
        tables_markdown(len(done), len(plan.trials()), outcome, reached) == (STUDY / "tables.md").read_text()
    )
    assert report["targets"] == [asdict(target) for target in reached]
    assert len(report["cells"]) == len(outcome.cells)
    for said in report["cells"]:
        cell = outcome.cells[said["references"], said["method"], said["metric"]]
        assert (said["mean"], said["half"]) == pytest.approx((cell.mean, cell.half))


def test_results_are_kept_by_how_their_videos_are_made():
    fingerprint = json.loads((STUDY / "report.json").read_text())["foundation"]["fingerprint"]
    made = made_with(load_foundation(None, device="cpu", parts=()), "fp32")
    assert made.keys() == GENERATION.keys()

    def folders(**other):
        return set(folders_of(documented(**other), STUDY, fingerprint).values())

    here = folders()
    assert here == {path.parent for path in STUDY.glob("trials/*/result.json")}, "those of docs stay valid"
    for other in (
        {"negative_prompt": "blurry"},
        {"guidance_scale": 7.0},
        {"num_inference_steps": 20},
        {"dtype": "bf16"},
    ):
        assert not folders(**other) & here, other


def test_what_is_named_twice_is_run_once():
    twice = Plan(
        motions=("hook", "hook"), references=(1, 1), methods=("dual", "base", "dual"), seeds=(1, 0, 1)
    )
    assert twice == Plan(motions=("hook",), references=(1,), methods=("dual", "base"), seeds=(1, 0))
    assert len(twice.trials()) == 4


def test_a_report_of_some_trials_says_so_and_one_of_none_is_refused(run, tmp_path):
    command = ["study", "--out", tmp_path, *ONE_HOOK, "--report-only"]
    command += ["--method", "base", "--method", "dual"]
    before = {"report.json": "earlier", "tables.md": "earlier"}
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    left, out, err = run(*command)
    assert left != 0
    assert "holds none of the 2 results of this plan" in " ".join((out + err).split())
    assert {name: (tmp_path / name).read_text() for name in before} == before
    fingerprint = load_foundation(None, device="cpu", parts=()).fingerprint
    plan = Plan(motions=("hook",), references=(1,), methods=("base",), seeds=(0,))
    [base] = folders_of(plan, tmp_path, fingerprint).values()
    base.mkdir(parents=True)
    (base / "result.json").write_text(json.dumps(result(0.1, 0.0)))
    kept = tmp_path / "sheets" / "hook-1.png"
    kept.parent.mkdir()
    kept.write_bytes(b"drawn where the frames were")
    left, out, err = run(*command)
    assert left == 0, out + err
    assert json.loads((tmp_path / "report.json").read_text())["trials"] == "1 of 2"
    assert "1 of 2 trials, **the others have no result yet**" in (tmp_path / "tables.md").read_text()
    assert kept.read_bytes() == b"drawn where the frames were"


def test_trials_train_together_by_seed_clips_and_method():
    plan = Plan(motions=HELD_OUT[:5], seeds=(0, 1), references=(1,), methods=("base", "dual"))
    found = units(plan.trials(), 4)
    assert sorted(map(len, found)) == [1] * 12 + [4, 4]
    assert sorted(t.name for unit in found for t in unit) == sorted(t.name for t in plan.trials())
    for unit in found:
        assert len({(t.seed, t.references, t.method) for t in unit}) == 1


def test_a_packed_trial_is_the_trial_alone(tmp_path):
    foundation = load_foundation(None)
    pair = [Trial("hook", 1, "no-debias", 0), Trial("spiral", 1, "no-debias", 0)]
    settings = {"steps": 3, "rank": 2}
    references = [reference_clips(trial) for trial in pair]
    steps: list[int] = []
    _, packed = train(pair, settings, foundation, references, lambda step, of: steps.append(step))
    assert steps == [1, 2, 3]
    for trial, shown, tensors in zip(pair, references, packed, strict=True):
        _, [alone] = train([trial], settings, foundation, [shown], lambda step, of: None)
        one, other = (
            torch.cat([half.flatten() for ab in found["temporal"].values() for half in ab])
            for found in (alone, tensors)
        )
        # AdamW's first steps divide by gradients near zero, which magnifies the rounding of larger batches.
        assert float((one - other).norm() / one.norm()) < 1e-4


def test_results_without_their_frames_are_reported_without_pictures(tmp_path):
    plan = Plan(motions=("hook",), references=(1,), methods=("base", "dual"), seeds=(0,))
    assert found(plan, tmp_path, "f") == []
    [base, _] = folders_of(plan, tmp_path, "f").values()
    base.mkdir(parents=True)
    (base / "result.json").write_text(json.dumps(result(0.1, 0.0)))
    [done] = found(plan, tmp_path, "f")
    assert (done.trial.method, done.result["values"]["motion_fidelity"]) == ("base", [0.1, 0.1])
    assert sheet([done], "hook", 1) is None
    assert found(plan, tmp_path, "of another foundation") == []
