"""The judgement of a foundation on cases with a known answer: rendered clips stand in for generated ones."""

import json

import numpy as np
import pytest

from datasets.sprites.motions import KNOWN, SPEEDS
from datasets.sprites.render import render_clip
from datasets.sprites.track import track
from evaluation.foundation_quality import Prompt, draw_prompts, judge, measure_quality, write_report
from models.load import load_foundation


def judged(prompt, scene=None, motion=None, speed=None):
    """The judgement when the model draws `scene` in `motion`, by default what the prompt asks."""
    adverb_speed = SPEEDS[prompt.adverb] if speed is None else speed
    clip = render_clip(scene or prompt.scene, motion or prompt.motion, seed=3, speed=adverb_speed)
    return judge(prompt, track(clip))


@pytest.fixture
def asked():
    drawn = draw_prompts(1)[0]
    return Prompt(drawn.scene, KNOWN["right"], "", drawn.text)


def test_what_does_as_it_is_told_is_right_in_everything(asked):
    assert all(judged(asked).values())


@pytest.mark.parametrize("motion", ["left", "up", "up-right", "still"])
def test_another_direction_is_wrong(asked, motion):
    got = judged(asked, motion=KNOWN[motion])
    assert not got["direction"]
    assert not got["motion"]
    assert got["colour"]


def test_the_right_way_at_half_the_length_is_a_right_direction_but_a_wrong_motion(asked):
    got = judged(asked, speed=0.5)
    assert got["direction"]
    assert not got["motion"]


def test_another_appearance_is_wrong_where_it_differs(asked):
    other = draw_prompts(2)[1].scene
    got = judged(asked, scene=other)
    assert not got["colour"]
    assert not got["shape"]
    assert not got["background"]
    assert got["motion"]


def test_an_absent_object_is_wrong_in_all_but_the_background(asked):
    clip = render_clip(asked.scene, KNOWN["still"], seed=3)
    empty = np.broadcast_to(clip[:, :, :1], clip.shape)
    got = judge(asked, track(empty))
    assert not any(got[name] for name in ("colour", "shape", "presence", "direction", "motion"))


def test_prompts_cover_all_directions_and_differ():
    prompts = draw_prompts(34)
    assert len({p.text for p in prompts}) == 34
    assert {p.motion.name for p in prompts} == {
        "right", "left", "up", "down", "up-right", "up-left", "down-right", "down-left", "still",
    }  # fmt: skip


def test_a_random_model_does_badly_and_the_report_says_so(tmp_path):
    foundation = load_foundation("tiny-random:unet3d", device="cpu")
    result = measure_quality(foundation, 4, steps=1, batch=4)
    assert result.scores["shape"].share < 1
    assert result.scores["colour"].count == 4
    write_report(result, foundation, tmp_path)
    told = json.loads((tmp_path / "quality.json").read_text())
    assert told["foundation"] == {"name": foundation.name, "fingerprint": foundation.fingerprint}
    assert len(told["prompts"]) == 4
    assert (tmp_path / "sheet.png").stat().st_size > 100
