"""The study's plan, its looks and prompts, its tables and targets."""

from dataclasses import replace

import numpy as np
import pytest

from datasets.sprites.captions import spoken
from datasets.sprites.motions import NOVEL
from datasets.sprites.world import SHAPES
from evaluation.metrics import reference_ceiling
from evaluation.metrics.sprite_tracking import tracked
from infra.errors import UserError
from motiondirector.study.check import bounds
from motiondirector.study.config import parse_seeds
from motiondirector.study.looks import (
    asked_scenes,
    content_sha256,
    full_prompts,
    open_prompts,
    reference_clips,
    reference_scenes,
    seen_as_it_is,
)
from motiondirector.study.methods import METHODS, Method
from motiondirector.study.plan import (
    CAPTIONS,
    HELD_OUT,
    MAIN,
    REFERENCES,
    TUNED,
    Plan,
    Trial,
    settings_of,
    trial_key,
)
from motiondirector.study.report import by_motion, observed, pairs, rows, tables_markdown
from motiondirector.study.run import units
from motiondirector.study.tables import FULL, LEAKS, Outcome, cell, gather
from motiondirector.study.targets import targets
from training.config import make_config


def test_what_is_reported_was_never_tuned_on():
    assert not set(TUNED) & set(HELD_OUT)
    assert set(TUNED) | set(HELD_OUT) == set(NOVEL)
    assert len(HELD_OUT) >= 13


@pytest.mark.parametrize("references", [1, 4, 6])
@pytest.mark.parametrize("seed", range(2))
def test_asked_appearances_share_nothing_with_the_reference_clips(references, seed):
    shown, asked = (
        reference_scenes("spiral", references, seed),
        asked_scenes("spiral", references, seed, 10),
    )
    assert len(shown) == references
    assert len({scene.appearance for scene in asked}) == len(asked) == 10
    for field in (lambda s: s.sprite.colour, lambda s: s.sprite.shape, lambda s: s.background.colour):
        assert not {field(s) for s in shown} & {field(s) for s in asked}
        assert len({field(s) for s in shown}) == references


@pytest.mark.parametrize("references", REFERENCES)
@pytest.mark.parametrize("seed", [0, 4])
def test_the_tracker_sees_every_reference_of_the_study_as_it_is(references, seed):
    for motion in HELD_OUT:
        clips = reference_clips(motion, references, seed, "class")
        assert len(clips) == references
        for scene, clip in zip(reference_scenes(motion, references, seed), clips, strict=True):
            assert tracked(clip.video_FHWC).present, (motion, scene)
            assert seen_as_it_is(scene, NOVEL[motion], clip.video_FHWC)


def test_what_the_references_score_against_one_another_is_one():
    for motion in HELD_OUT:  # of *lunge* from seed 0 one look is read in the wrong place: it is drawn again
        ceiling = reference_ceiling(reference_clips(motion, 4, 0, "class"))
        assert ceiling is not None
        assert ceiling > 0.999, motion  # so a share of their score is the score itself


def test_each_kind_of_captions_says_less_of_the_same_clips():
    said = {kind: reference_clips("hook", 1, 0, kind)[0] for kind in CAPTIONS}
    assert all((one.video_FHWC == said["full"].video_FHWC).all() for one in said.values())
    [scene], word = reference_scenes("hook", 1, 0), NOVEL["hook"].phrases[0]
    shape = scene.sprite.shape
    assert said["class"].caption in (f"a {shape}", f"an {shape}")
    assert said["word"].caption == f"{said['class'].caption} {word}"
    assert said["motion"].caption == word
    assert scene.sprite.colour in said["full"].caption
    assert scene.background.colour in said["full"].caption
    assert word in said["full"].caption


def test_prompts_have_the_motions_word_where_the_captions_have_it():
    word = NOVEL["hook"].phrases[0]
    for kind in CAPTIONS:
        for one in [*full_prompts("hook", 1, 0, kind, 5), *open_prompts("hook", 1, 0, kind, 5)]:
            assert (word in one.prompt.split()) == (kind != "class"), one


def test_open_prompts_name_a_class_alone_that_no_reference_shows():
    for references in REFERENCES:
        shown = {scene.sprite.shape for scene in reference_scenes("hook", references, 3)}
        asked = open_prompts("hook", references, 3, "class", 16)
        assert len(asked) == 16
        assert len({(one.prompt, one.seed) for one in asked}) == 16, "each is a video of its own"
        named = [spoken(one.prompt) for one in asked]
        assert all(words.keys() == {"shape"} for words in named)
        assert {words["shape"] for words in named} == set(SHAPES) - shown


def test_the_noise_of_an_open_prompt_is_the_same_for_every_concept():
    found = {}
    for motion in HELD_OUT[:4]:
        for one in open_prompts(motion, 1, 2, "class", 16):
            number = sum(1 for _ in filter(lambda key: key[0] == (motion, one.prompt), found))
            found[(motion, one.prompt), number] = one.seed
    by_prompt: dict = {}
    for ((_, prompt), number), seed in found.items():
        by_prompt.setdefault((prompt, number), set()).add(seed)
    assert all(len(seeds) == 1 for seeds in by_prompt.values())


def test_another_seed_has_other_looks_prompts_and_noise():
    one, other = (full_prompts("hook", 4, seed, "class", 5) for seed in (1, 2))
    assert not set(one) & set(other)
    assert not set(open_prompts("hook", 4, 1, "class", 5)) & set(open_prompts("hook", 4, 2, "class", 5))


def test_what_is_unknown_is_refused():
    with pytest.raises(UserError, match="moonwalk"):
        Plan(motions=("moonwalk",))
    with pytest.raises(UserError, match="prayer"):
        Plan(methods=("prayer",))
    with pytest.raises(UserError, match="kind of captions"):
        Plan(captions=("none",))
    with pytest.raises(UserError, match="1 to 6"):
        Plan(references=(9,))
    with pytest.raises(UserError, match="prayer"):
        Plan(method_seeds=(("prayer", 2),))


def test_what_is_named_twice_is_run_once():
    twice = Plan(
        motions=("hook", "hook"), references=(1, 1), methods=("dual", "base", "dual"), seeds=(1, 0, 1)
    )
    once = Plan(motions=("hook",), references=(1,), methods=("dual", "base"), seeds=(1, 0))
    assert twice == once
    assert len(Plan(**{**vars(once), "captions": (MAIN,)}).trials()) == 4


def test_methods_have_as_many_seeds_as_they_are_worth():
    plan = Plan(motions=("hook",), references=(1,), seeds=tuple(range(5)), method_seeds=(("coupled", 4),))

    def count(captions, method):
        return sum((t.captions, t.method) == (captions, method) for t in plan.trials())

    assert [count(MAIN, m) for m in ("dual", "coupled", "full", "coupled-temporal")] == [5, 4, 3, 5]
    assert [count("full", m) for m in ("dual", "coupled", "full", "no-debias")] == [2, 2, 0, 0]
    assert parse_seeds(["full=3", "coupled=2"]) == {"full": 3, "coupled": 2}
    for wrong in ("full", "full=", "full=0", "full=x"):
        with pytest.raises(UserError, match="METHOD=SEEDS"):
            parse_seeds([wrong])


def test_every_method_is_a_training_that_there_is():
    plan = Plan(settings=(("rank", 16), ("skip_spatial", 0.3), ("steps", 200)), several=(("steps", 400),))
    for name in METHODS:
        one, four = (settings_of(plan, Trial("hook", count, name, 0)) for count in (1, 4))
        if name == "base":
            assert one == four == {}
            continue
        config = make_config(one)
        assert (config.rank, config.steps) == (16, 200)
        assert four["steps"] == 400
    assert settings_of(plan, Trial("hook", 1, "dual", 0))["skip_spatial"] == 0.3
    assert settings_of(plan, Trial("hook", 1, "motiondirector", 0))["skip_spatial"] == 0.2
    assert "skip_spatial" not in settings_of(plan, Trial("hook", 1, "coupled", 0))
    shared = [settings_of(plan, Trial("hook", 1, name, 0)) for name in ("coupled", "coupled-temporal")]
    assert shared[0] == shared[1]


def test_a_method_is_a_name_and_settings(monkeypatch):
    monkeypatch.setitem(METHODS, "gentle", Method("gently", {"method": "dual", "beta": 0.3}))
    plan = Plan(motions=("hook",), methods=("gentle",), settings=(("steps", 7), ("beta", 1.0)))
    assert settings_of(plan, plan.trials()[0]) == {"steps": 7, "beta": 0.3, "method": "dual"}


def test_a_results_key_is_of_all_that_it_depends_on(monkeypatch):
    plan = Plan(
        motions=("hook",),
        references=(1,),
        settings=(("steps", 7),),
        generation=(("dtype", "fp32"), ("guidance_scale", 4.0)),
    )
    trial = Trial("hook", 1, "dual", 0)
    key = trial_key(plan, trial, "f")
    assert key == trial_key(replace(plan, motions=("hook", "arc"), seeds=(0,)), trial, "f")
    others = [
        trial_key(plan, trial, "g"),
        trial_key(plan, replace(trial, captions="full"), "f"),
        trial_key(plan, replace(trial, seed=1), "f"),
        trial_key(plan, replace(trial, method="no-debias"), "f"),
        trial_key(replace(plan, settings=(("steps", 8),)), trial, "f"),
        trial_key(replace(plan, appearances=9), trial, "f"),
        trial_key(replace(plan, open_videos=9), trial, "f"),
        *(
            trial_key(replace(plan, generation=tuple({**dict(plan.generation), **one}.items())), trial, "f")
            for one in ({"dtype": "bf16"}, {"guidance_scale": 7.0})
        ),
    ]
    shared, own = (
        trial_key(plan, replace(trial, method=name), "f") for name in ("coupled", "coupled-temporal")
    )
    assert len({key, shared, own, *others}) == len(others) + 3
    still = NOVEL["arc"].path
    monkeypatch.setitem(NOVEL, "hook", replace(NOVEL["hook"], path=still))  # the world changes
    content_sha256.cache_clear()
    from motiondirector.study.looks import references_of

    references_of.cache_clear()
    assert trial_key(plan, trial, "f") != key
    monkeypatch.undo()
    content_sha256.cache_clear()
    references_of.cache_clear()
    assert trial_key(plan, trial, "f") == key


def test_trials_train_together_by_table_clips_and_training():
    plan = Plan(
        motions=HELD_OUT[:5],
        seeds=(0, 1),
        references=(1, 4),
        captions=("class", "full"),
        methods=("base", "coupled", "coupled-temporal", "dual"),
    )
    trials = plan.trials()
    found = units(trials, 4)
    assert sorted(t.name for unit in found for t in unit) == sorted(t.name for t in trials)
    place = {trial: i for i, trial in enumerate(trials)}
    assert [place[unit[0]] for unit in found] == sorted(place[unit[0]] for unit in found)
    for unit in found:
        methods = {t.method for t in unit}
        assert len({(t.captions, t.references) for t in unit}) == 1
        assert len({(t.motion, t.seed) for t in unit}) <= 4
        assert methods in ({"base"}, {"coupled", "coupled-temporal"}, {"dual"}, {"coupled"})
        if unit[0].captions == "class" and "coupled" in methods:
            assert len(unit) == 2 * len({(t.motion, t.seed) for t in unit}), "one training gives both"


# ------------------------------------------------------------------------------------------------ tables and targets
def result(fidelity=0.9, **values):
    """What a trial's record holds of its videos; what is not named is as good as can be."""
    found = {
        "motion_fidelity": fidelity,
        "appearance_leakage": 0.0,
        "appearance_accuracy": 0.9,
        "object_presence": 1.0,
        "open_motion_fidelity": fidelity,
        "open_leakage": 0.0,
        "open_diversity": 1.0,
        **dict.fromkeys(LEAKS, 0.0),
        **{f"open_diversity_{look}": 1.0 for look in ("colour", "background")},
        **values,
    }
    return {"values": {name: [value, value] for name, value in found.items()}, "seconds": {"train": 60.0}}


def outcome(captions=MAIN, references=1, **methods) -> Outcome:
    """Of two motions and two seeds, which differ by 0.02 in what each method has of them."""
    return gather(
        (
            Trial(motion, references, method.replace("_", "-"), seed, captions),
            result(**{**values, "fidelity": values.get("fidelity", 0.9) + more}),
        )
        for method, values in methods.items()
        for motion, more in (("spiral", -0.01), ("hook", 0.01))
        for seed in (0, 1)
    )


GOOD = {
    "base": {"fidelity": 0.1},
    "coupled": {"fidelity": 0.95, "open_leakage": 0.8, "open_diversity": 0.2},
    "motiondirector": {"fidelity": 0.8},
    "dual": {"fidelity": 0.96},
}


def missed(outcomes):
    return {target.what for target in targets(outcomes) if not target.met}


def test_targets_are_met_by_a_method_that_does_what_is_claimed():
    both = gather(
        (trial, values)
        for found in (outcome(**GOOD), outcome(references=4, **GOOD))
        for trial, measured in found.trials.items()
        for values in [{"values": {m: [v] for m, v in measured.items()}, "seconds": {"train": 60.0}}]
    )
    outcomes = {MAIN: both, "full": outcome("full", **GOOD)}
    told = targets(outcomes)
    assert not missed(outcomes)
    assert len(told) == 2 * 13 + 1


@pytest.mark.parametrize(
    ("worse", "missing"),
    [
        ({"fidelity": 0.9}, {"motion fidelity, mean", "ours minus coupled, motion"}),
        ({"open_motion_fidelity": 0.8}, {"open prompts: fidelity"}),
        ({"appearance_accuracy": 0.8}, {"appearance accuracy, of the base's"}),
        ({"appearance_leakage": 0.1}, {"leakage (full prompts)"}),
        # the looks that are shown less often do not make up for one that is shown more often
        (
            {"open_leakage": 0.0, "open_leakage_colour": 0.5, "open_leakage_background": -0.5},
            {"open prompts: reference's looks beyond the base's share"},
        ),
        (
            {"open_diversity_colour": 0.7, "open_diversity_background": 1.5},
            {"open prompts: diversity, of the base's"},
        ),
        ({"open_leakage": 0.5}, {"ours minus coupled, open-prompt leakage"}),
        ({"open_diversity": 0.5}, {"ours minus coupled, open-prompt diversity"}),
    ],
)
def test_each_target_is_missed_by_a_method_that_does_not(worse, missing):
    found = missed({MAIN: outcome(**{**GOOD, "dual": {**GOOD["dual"], **worse}})})
    assert {what.split(": ", 1)[1] for what in found} == missing


def test_the_worst_motion_and_the_worst_seed_of_the_others_are_told():
    values = {"spiral": (0.9, 0.6), "hook": (0.1, 0.3), "arc": (0.95, 0.8)}
    found = gather(
        (Trial(motion, 1, "dual", seed), result(one))
        for motion, seeds in values.items()
        for seed, one in enumerate(seeds)
    )
    assert found.worst_motion(1, "dual", "motion_fidelity") == ("hook", pytest.approx(0.2))
    assert found.worst_seed(1, "dual", "motion_fidelity") == ("hook", 0.1)
    assert found.worst_seed(1, "dual", "motion_fidelity", but="hook") == ("spiral", 0.6)
    told = {target.what: target for target in targets({MAIN: found})}
    assert told["one clip: worst motion"].reached == "0.20 (hook)"
    assert told["one clip: worst seed over all motions but the worst"].reached == "0.60 (spiral)"
    table = dict(by_motion(found, 1))
    assert table["spiral"] == "0.75 (0.60)"


def test_what_was_not_measured_is_no_target():
    assert targets({}) == []
    alone = {target.what.split(": ", 1)[1] for target in targets({MAIN: outcome(dual={})})}
    assert "motion fidelity, mean" in alone
    assert not any("minus" in what or what.startswith("appearance accuracy") for what in alone)
    assert targets({"full": outcome("full", base={}, dual={})}) == []


@pytest.mark.parametrize(
    ("ours", "met"),
    [
        ([(0.62, 0.1), (0.84, 0.1), (0.43, 0.1)], True),
        ([(0.52, 0.1), (0.90, 0.1), (0.42, 0.1)], False),  # better in the mean, by one motion
        ([(0.58, 0.1), (0.76, 0.1), (0.38, 0.1)], False),
        ([(0.60, 0.02), (0.80, 0.04), (0.40, 0.03)], True),  # leaks less
    ],
)
def test_debiasing_helps_only_where_the_interval_of_its_gain_says_so(ours, met):
    without = [(0.6, 0.1), (0.8, 0.1), (0.4, 0.1)]
    found = gather(
        (Trial(motion, 1, method, 0), result(fidelity, open_leakage=leak))
        for method, of in (("dual", ours), ("motiondirector", without))
        for motion, (fidelity, leak) in zip(("spiral", "hook", "arc"), of, strict=True)
    )
    [verdict] = [target for target in targets({MAIN: found}) if "paper" in target.what]
    assert verdict.met == met, verdict
    assert "±" in verdict.reached


def test_one_pair_of_trials_decides_nothing():
    found = gather((Trial("hook", 1, m, 0), result(x)) for m, x in (("dual", 0.9), ("motiondirector", 0.1)))
    [verdict] = [target for target in targets({MAIN: found}) if "paper" in target.what]
    assert not verdict.met


def test_a_cell_has_students_interval():
    three = cell([1.0, 2.0, 3.0])
    assert three is not None
    assert three.mean == 2
    assert three.half == pytest.approx(4.303 * 1 / np.sqrt(3), abs=1e-3)
    assert (three.above(-1), three.above(0), three.below(5)) == (True, False, True)
    alone = cell([0.5])
    assert alone is not None
    assert (alone.mean, alone.half, str(alone), alone.above(0)) == (0.5, 0.0, "0.50", False)
    assert cell([]) is None


def test_a_motion_is_one_observation_however_many_trials_it_has():
    def of(trials):
        return gather((Trial(motion, 1, "dual", seed), result(x)) for motion, seed, x in trials)

    known = [("spiral", 0, 0.2), ("spiral", 1, 0.4), ("hook", 0, 0.8), ("arc", 0, 0.7)]
    found = of(known).cells[1, "dual", "motion_fidelity"]
    expected = cell([0.3, 0.8, 0.7])
    assert expected is not None
    assert (found.mean, found.half, found.count) == pytest.approx((0.6, expected.half, 3))
    alone = of(known[:2])
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
        (Trial(motion, 1, method, seed), result(x) if x else {**result(0), "values": {}})
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
    assert (header[0], row[1]) == ("ours minus", apart.text("+.2f"))


def test_values_that_could_not_be_measured_do_not_count():
    told = result(0.7)
    told["values"]["appearance_leakage"] = [0.25, None]
    told["values"]["scale_fidelity"] = [None, None]
    found = gather([(Trial("hook", 1, "dual", 0), told)])
    assert found.mean(1, "dual", "appearance_leakage") == 0.25
    assert np.isnan(found.mean(1, "coupled", "motion_fidelity"))
    header, _ = rows(found, 1, [*FULL, ("scale_fidelity", "scale fidelity", "higher")])
    assert "scale fidelity ↑" not in header


def test_the_tables_in_markdown_have_every_method_and_both_kinds_of_prompts():
    outcomes = {MAIN: outcome(**GOOD), "full": outcome("full", **GOOD)}
    text = tables_markdown(outcomes, 32, 40, targets(outcomes))
    assert "32 of 40 trials, **the others have no result yet**" in text
    for method in ("base", "coupled", "motiondirector", "dual"):
        assert text.count(f"| {METHODS[method].title} |") >= 4
    assert "leakage, background kind" in text
    assert text.index("## Targets") < text.index("## Captions name the subject's class alone")


# --------------------------------------------------------------------------------------------------- a small study
SMALL = {
    "base": {"fidelity": 0.1},
    "coupled": {"fidelity": 0.9, "open_leakage": 0.5},
    "dual": {"fidelity": 0.5, "appearance_leakage": 0.25, "open_leakage": 0.25},
}


@pytest.mark.parametrize(
    ("worse", "expected"),
    [
        ({}, set()),
        ({"fidelity": 0.2, "open_motion_fidelity": 0.5}, {"motion fidelity of ours above base"}),
        ({"open_motion_fidelity": 0.3}, {"open prompts: motion fidelity of ours above base"}),
        ({"appearance_leakage": 0.375}, {"leakage of ours"}),
        ({"object_presence": 0.625}, {"object in every frame, ours - base"}),
        ({"open_leakage": 0.35}, {"open prompts: leakage, ours - coupled"}),
    ],
)
def test_the_bounds_of_a_small_study_tell_what_is_broken(worse, expected):
    found = bounds(outcome(**{**SMALL, "dual": {**SMALL["dual"], **worse}}))
    assert len(found) == 5
    assert {bound.what.split(": ", 1)[1] for bound in found if not bound.met} == expected


def test_what_was_not_measured_keeps_no_bound():
    assert not any(bound.met for bound in bounds(outcome(coupled={})))
