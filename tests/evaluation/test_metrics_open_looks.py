"""Open prompts: what of the reference shows where the prompt left it open, against the base's videos of the same prompts."""

import math

import numpy as np
import pytest
from evaluation_helpers import sprite_references

from datasets.sprites.captions import canonical, spoken
from datasets.sprites.motions import KNOWN, NOVEL
from datasets.sprites.render import render_clip
from datasets.sprites.world import Background, Scene, Sprite
from evaluation.metric import Case, Comparison, Metric, Reference
from evaluation.metrics import open_metrics_for
from evaluation.metrics.diversity import ColourDiversity
from evaluation.metrics.open_looks import (
    LOOKS,
    ColourApproach,
    DistanceShare,
    ReferenceLooks,
    SpriteDiversityShare,
    SpriteLeakage,
    entropy,
    left_open,
)

LEARNT = Scene(Sprite("star", "red", "striped"), Background("navy", "checkered"))
OTHER = Scene(Sprite("star", "green"), Background("beige"))


def video(scene, motion="right", seed=1):
    return render_clip(scene, (KNOWN | NOVEL)[motion], seed=seed)


REFERENCE = Reference(video(LEARNT, "orbit"), "a star")


def cases(scenes, prompt="a heart", references=(REFERENCE,)):
    return [Case(video(scene, seed=seed), prompt, seed, references) for seed, scene in enumerate(scenes)]


def heart(scene, **other):
    return Scene(
        Sprite("heart", other.get("colour", scene.sprite.colour), other.get("texture", scene.sprite.texture)),
        Background(
            other.get("background", scene.background.colour), other.get("kind", scene.background.kind)
        ),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a heart", {"shape": "heart"}),
        ("a heart hooks", {"shape": "heart"}),
        ("something red", {"colour": "red"}),
        ("a striped moon", {"shape": "moon", "texture": "striped"}),
        (
            "a heart on a navy gradient",
            {"shape": "heart", "background": "navy", "background_kind": "gradient"},
        ),
        ("orbits", {}),
        (
            "a red star on a navy background",
            {
                "shape": "star",
                "colour": "red",
                "texture": "plain",
                "size": "medium",
                "background": "navy",
                "background_kind": "plain",
            },
        ),
    ],
)
def test_what_a_prompt_names_is_read_look_by_look(text, said):
    assert spoken(text) == said
    assert left_open(text) == set(LOOKS) - set(said)


def test_a_video_that_looks_as_the_reference_did_shows_all_that_was_left_open():
    same, none = cases([heart(LEARNT)]), cases([heart(OTHER)])
    assert ReferenceLooks()(same).values == (1.0,)
    assert ReferenceLooks()(none).values == (0.0,)
    half = cases([heart(LEARNT, colour="green", texture="plain")])
    assert ReferenceLooks()(half).values == (0.5,), "its background and the kind of it"
    for look, expected in (("colour", 0.0), ("background", 1.0), ("shape", None)):
        assert ReferenceLooks(look)(half).values == (expected,)


def test_what_the_prompt_names_is_no_leak_and_shape_is_judged_only_where_it_is_open():
    [case] = cases([heart(LEARNT)], canonical(heart(LEARNT), None))
    assert ReferenceLooks().value(case) is None
    [star] = cases([LEARNT], "something that moves")
    assert ReferenceLooks("shape").value(star) == 1.0
    [moon] = cases([heart(LEARNT)], "something that moves")
    assert ReferenceLooks("shape").value(moon) == 0.0


def test_a_reference_that_the_tracker_does_not_see_tells_no_leak():
    unseen = Reference(video(Scene(Sprite("square", "white"), Background("mint", "checkered"))), "a square")
    [case] = cases([heart(LEARNT)], references=(unseen,))
    assert ReferenceLooks().value(case) is None
    assert ReferenceLooks("colour").value(case) is None
    assert ReferenceLooks("background").value(case) == 0.0
    [both] = cases([heart(LEARNT)], references=(unseen, REFERENCE))
    assert ReferenceLooks().value(both) == 1.0


def test_leakage_is_what_goes_beyond_the_base():
    ours = cases([heart(LEARNT)] * 4)
    base = cases([heart(LEARNT)] * 1 + [heart(OTHER)] * 3)
    score = SpriteLeakage()(ours, base)
    assert score.values == (0.0, 1.0, 1.0, 1.0)
    assert score.mean == 0.75
    assert SpriteLeakage()(base, base).mean == 0.0
    assert SpriteLeakage("colour")(base, ours).mean == -0.75, "the adapter avoids it"
    assert SpriteLeakage("shape")(ours, base).mean is None
    with pytest.raises(ValueError):
        SpriteLeakage()(ours, base[:2])


def test_entropy_is_of_what_is_shown():
    assert entropy(["a", "b", "c", "d"]) == pytest.approx(math.log(4))
    assert entropy(["a", "a", "a", None]) == 0.0
    assert entropy([None]) == entropy([]) == 0.0
    assert entropy(["a", "b", None]) == pytest.approx(math.log(2))


def test_diversity_is_the_share_of_the_bases_entropy_look_by_look():
    colours = ("red", "green", "blue", "yellow")
    base = cases([heart(OTHER, colour=c, background=b) for c in colours[:2] for b in ("beige", "navy")])
    ours = cases([heart(OTHER, colour=c, background="navy") for c in ("red", "red", "green", "green")])
    assert SpriteDiversityShare("colour")(ours, base).values == (pytest.approx(1.0),)
    assert SpriteDiversityShare("background")(ours, base).values == (0.0,)
    assert SpriteDiversityShare("texture")(ours, base).values == (None,), "the base does not vary in it"
    assert SpriteDiversityShare()(ours, base).values == (pytest.approx(0.5),)
    assert SpriteDiversityShare()(base, base).mean == pytest.approx(1.0)
    more = cases([heart(OTHER, colour=c) for c in colours])
    assert SpriteDiversityShare("colour")(more, base).mean == pytest.approx(2.0)
    lost = [
        Case(np.full_like(case.video_FHWC, 128), case.prompt, case.seed, case.references) for case in ours
    ]
    assert SpriteDiversityShare("colour")(lost, base).mean == 0.0, "lost objects are no variety"


def test_colours_tell_of_any_clip_how_near_it_came_to_the_reference():
    ours, base = cases([heart(LEARNT)]), cases([heart(OTHER)])
    assert ColourApproach()(base, base).values == (pytest.approx(0.0),)
    assert ColourApproach()([Case(REFERENCE.video_FHWC, "a heart", 0, (REFERENCE,))], base).values == (
        pytest.approx(1.0, abs=1e-3),
    )
    near = ColourApproach()(ours, base).mean
    assert near is not None
    assert 0.3 < near < 1
    away = ColourApproach()(base, ours).mean
    assert away is not None
    assert away < 0
    there = [Case(REFERENCE.video_FHWC, "a heart", 0, (REFERENCE,))]
    assert ColourApproach()(ours, there).values == (None,), "the base has those colours already"
    nearest = (REFERENCE, Reference(base[0].video_FHWC, "a heart"))
    assert ColourApproach()(cases([heart(LEARNT)], references=nearest), there).values == (None,)


def test_variety_of_colours_is_a_share_of_the_bases():
    share = DistanceShare(ColourDiversity(), "diversity", "diversity")
    base = cases([heart(OTHER, background=b) for b in ("beige", "navy", "teal")])
    ours = cases([heart(OTHER)] * 3)
    found = share(ours, base).mean
    assert found is not None
    assert 0 <= found < 0.5
    assert share(base, base).values == (pytest.approx(1.0),)
    assert share(ours[:1], base[:1]).values == (None,)


@pytest.mark.parametrize("sprites", [True, False])
def test_the_measures_of_open_prompts_need_no_weights(sprites):
    chosen = open_metrics_for(sprites)
    references = tuple(sprite_references(1))
    ours, base = (
        cases([heart(LEARNT)] * 2, references=references),
        cases([heart(OTHER), heart(LEARNT)], references=references),
    )
    names = [one.name for one in (*chosen.metrics, *chosen.comparisons)]
    assert len(set(names)) == len(names)
    assert {"leakage", "diversity"} <= {one.name for one in chosen.comparisons}
    for metric in chosen.metrics:
        assert isinstance(metric, Metric)
        assert type(metric).__doc__
        assert all(metric.range[0] <= value <= metric.range[1] for value in metric(ours).found)
    for comparison in chosen.comparisons:
        assert isinstance(comparison, Comparison)
        assert type(comparison).__doc__
        score = comparison(ours, base)
        assert score.metric == comparison.name
        assert all(comparison.range[0] <= value <= comparison.range[1] for value in score.found)
