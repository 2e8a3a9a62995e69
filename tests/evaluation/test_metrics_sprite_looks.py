"""Accuracy, presence, leakage, text alignment, diversity and consistency of sprites on rendered clips."""

from dataclasses import replace

import numpy as np
import pytest

from datasets.sprites.captions import canonical
from datasets.sprites.motions import KNOWN
from datasets.sprites.render import render_clip
from datasets.sprites.world import Background, Scene, Sprite
from evaluation.metric import Case, Reference
from evaluation.metrics.consistency import SpriteConsistency
from evaluation.metrics.diversity import SpriteDiversity
from evaluation.metrics.motion_words import MotionWords, SpriteTextAlignment
from evaluation.metrics.sprite_appearance import AppearanceAccuracy, AppearanceLeakage, ObjectPresence
from infra.errors import UserError

RIGHT = KNOWN["right"]
ASKED = Scene(Sprite("star", "red", "plain"), Background("gray", "checkered"))
LEARNT = Scene(Sprite("cross", "yellow", "plain"), Background("navy", "plain"))


def drawn(scene, motion=RIGHT, seed=1):
    return render_clip(scene, motion, seed=seed)


def empty(scene=ASKED):
    clip = drawn(scene, KNOWN["still"], seed=3)
    return np.broadcast_to(clip[:, :, :1], clip.shape)


def case(video, asked=ASKED, motion=RIGHT, learnt=(LEARNT,)):
    references = tuple(Reference(drawn(scene, seed=7), canonical(scene, RIGHT)) for scene in learnt)
    return Case(video, canonical(asked, motion), 0, references)


def value(metric, *args, **kwargs):
    return metric([case(*args, **kwargs)]).values[0]


def with_sprite(**changes):
    return replace(ASKED, sprite=replace(ASKED.sprite, **changes))


def test_what_shows_all_that_is_asked_is_accurate_in_all():
    assert value(AppearanceAccuracy(), drawn(ASKED)) == 1
    assert value(ObjectPresence(), drawn(ASKED)) == 1


@pytest.mark.parametrize(
    ("attribute", "scene"),
    [
        ("colour", with_sprite(colour="blue")),
        ("shape", with_sprite(shape="ring")),
        ("texture", with_sprite(texture="striped")),
        ("background", replace(ASKED, background=Background("mint", "checkered"))),
        ("background", replace(ASKED, background=Background("gray", "plain"))),
    ],
)
def test_one_wrong_attribute_costs_itself_and_a_quarter_of_the_whole(attribute, scene):
    video = drawn(scene)
    for name in ("colour", "shape", "texture", "background"):
        assert value(AppearanceAccuracy(name), video) == float(name != attribute), name
    assert value(AppearanceAccuracy(), video) == 0.75


def test_a_lost_object_is_wrong_in_all_but_the_background():
    video = empty(replace(ASKED, background=Background("gray", "gradient")))
    asked = replace(ASKED, background=Background("gray", "gradient"))
    assert value(AppearanceAccuracy(), video, asked=asked) == 0.25
    assert value(ObjectPresence(), video) == 0
    mostly = drawn(ASKED).copy()
    mostly[1:6] = empty(ASKED)[0]
    assert value(AppearanceAccuracy("colour"), mostly) == 0
    assert value(ObjectPresence(), mostly) == 0


def test_a_prompt_that_names_nothing_gives_no_value():
    assert AppearanceAccuracy()([Case(drawn(ASKED), "a bear is running", 0)]).values == (None,)
    assert AppearanceAccuracy("colour")([Case(drawn(ASKED), "on a gray background", 0)]).mean is None


@pytest.mark.parametrize(
    ("attribute", "scene"),
    [
        ("colour", with_sprite(colour="yellow")),
        ("shape", with_sprite(shape="cross")),
        ("background", replace(ASKED, background=Background("navy", "checkered"))),
    ],
)
def test_the_references_look_instead_of_the_prompts_is_a_leak(attribute, scene):
    video = drawn(scene)
    assert value(AppearanceLeakage(), video) == 1
    for name in ("colour", "shape", "background"):
        assert value(AppearanceLeakage(name), video) == float(name == attribute), name


def test_doing_as_told_or_something_else_altogether_is_no_leak():
    assert value(AppearanceLeakage(), drawn(ASKED)) == 0
    assert value(AppearanceLeakage(), drawn(with_sprite(colour="blue", shape="ring"))) == 0
    assert value(AppearanceLeakage("colour"), empty()) == 0


def test_what_the_prompt_shares_with_the_reference_cannot_leak():
    asked = with_sprite(colour="yellow")
    assert value(AppearanceLeakage("colour"), drawn(asked), asked=asked) is None
    assert value(AppearanceLeakage(), drawn(asked), asked=asked) == 0  # shape and background could have
    assert value(AppearanceLeakage(), drawn(LEARNT), asked=LEARNT) is None
    assert value(AppearanceLeakage(), drawn(ASKED), learnt=()) is None


def test_the_looks_of_a_reference_that_the_tracker_does_not_see_cannot_be_told_to_leak():
    unseen = Scene(Sprite("square", "white", "striped"), Background("mint", "checkered"))
    leaks = drawn(replace(ASKED, background=Background("mint")))
    assert value(AppearanceLeakage("colour"), leaks, learnt=(unseen,)) is None
    assert value(AppearanceLeakage("background"), leaks, learnt=(unseen,)) == 1
    assert value(AppearanceLeakage(), leaks, learnt=(unseen,)) is None
    assert value(AppearanceLeakage(), leaks, learnt=(unseen, LEARNT)) == 1, "of another's it can be told"
    assert value(AppearanceLeakage(), drawn(ASKED), learnt=(unseen, LEARNT)) == 0


def test_any_of_several_references_can_leak():
    other = Scene(Sprite("heart", "white"), Background("maroon"))
    assert value(AppearanceLeakage("shape"), drawn(with_sprite(shape="heart")), learnt=(LEARNT, other)) == 1


def test_motion_words():
    words = MotionWords()
    assert value(words, drawn(ASKED)) > 0.99
    assert value(words, drawn(ASKED, KNOWN["left"])) < -0.99
    assert value(words, drawn(ASKED, KNOWN["still"])) == 0
    assert value(words, drawn(ASKED, KNOWN["still"]), motion=KNOWN["still"]) == 1
    assert value(words, drawn(ASKED, KNOWN["grows"]), motion=KNOWN["grows"]) > 0.97
    assert value(words, drawn(ASKED, KNOWN["zoom-in"]), motion=KNOWN["zoom-out"]) < -0.9
    assert value(words, drawn(ASKED, KNOWN["spins"]), motion=KNOWN["spins"]) is None
    assert value(words, drawn(ASKED), motion=None) is None
    assert value(words, drawn(ASKED, KNOWN["wander"]), motion=KNOWN["wander"]) is None


def test_text_alignment_counts_each_thing_said_once():
    alignment = SpriteTextAlignment()
    assert value(alignment, drawn(ASKED)) == pytest.approx(1, abs=0.01)
    assert value(alignment, drawn(ASKED, KNOWN["left"])) == pytest.approx(4 / 5)
    assert value(alignment, drawn(with_sprite(colour="blue"))) == pytest.approx(4 / 5, abs=0.01)
    assert value(alignment, drawn(with_sprite(colour="blue")), motion=None) == pytest.approx(3 / 4)
    assert alignment([Case(drawn(ASKED), "hello", 0)]).values == (None,)


def test_diversity_is_the_share_of_attributes_that_differ():
    one, two = case(drawn(ASKED)), case(drawn(with_sprite(colour="blue", shape="ring")))
    assert SpriteDiversity()([one, two]).values == (pytest.approx(2 / 5),)
    assert SpriteDiversity()([one, case(drawn(ASKED, seed=9))]).values == (0.0,)
    three = [one, two, case(drawn(LEARNT))]  # pairs: 2, 4 (texture agrees) and 4 of 5
    assert SpriteDiversity()(three).values == (pytest.approx((2 + 4 + 4) / 15),)


def test_diversity_gives_a_value_for_each_set_of_references():
    other = Scene(Sprite("heart", "white"), Background("maroon"))
    cases = [case(drawn(ASKED)), case(drawn(LEARNT), learnt=(other,)), case(drawn(LEARNT))]
    assert SpriteDiversity()(cases).values == (pytest.approx(4 / 5), None)


def test_lost_objects_are_not_diversity():
    # an empty checkered column reads as a background of one kind or another; its colour is the same
    got = SpriteDiversity()([case(drawn(ASKED)), case(empty())]).values[0]
    assert got <= 1 / 5


def test_consistency():
    assert value(SpriteConsistency(), drawn(ASKED)) >= 0.95
    flicker = drawn(ASKED).copy()
    flicker[1::2] = drawn(with_sprite(colour="blue"))[1::2]
    assert value(SpriteConsistency(), flicker) == pytest.approx(2 / 3, abs=0.05)
    all_differs = drawn(ASKED).copy()
    all_differs[1::2] = drawn(LEARNT)[1::2]
    assert value(SpriteConsistency(), all_differs) <= 0.05
    assert value(SpriteConsistency(), empty()) == pytest.approx(1 / 3)
    assert value(SpriteConsistency(), drawn(ASKED)[:1]) is None


def test_the_tracker_refuses_what_is_not_square():
    with pytest.raises(UserError, match="64x32 pixels; expected square"):
        value(ObjectPresence(), drawn(ASKED)[:, :32])
