"""One run trains both experts of Wan 2.2, high noise first, or one of them."""

import pytest
import torch
from training_helpers import BUCKETS, RandomClip, parameters, random_clips, solo, solo_config

from infra.errors import UserError
from models.load import load_foundation
from training.loop.member import Member
from training.loop.pack_of_one import PackOfOne


@pytest.fixture(scope="module")
def experts():
    return load_foundation("tiny-random:wan22", device="cpu", dtype=torch.float32)


def moved(before, after):
    """The experts whose weights changed."""
    return {key.split("/")[2].split(".")[0] for key in before if not torch.equal(before[key], after[key])}


def trained_by_step(foundation, **settings):
    found = []
    with solo(foundation, random_clips(foundation, 1), **settings) as run:
        before = parameters(run)
        for _ in run.train():
            after = parameters(run)
            found.append(moved(before, after))
            before = after
    return found


def test_high_noise_comes_first_and_a_step_leaves_the_other_expert_as_it_is(experts):
    steps = trained_by_step(experts, steps=5, high_noise_share=0.6, gradient_accumulation=2)
    assert steps == [{"high_noise"}] * 3 + [{"low_noise"}] * 2


def test_both_learn_the_appearance_and_the_motion_is_divided(experts):
    steps = trained_by_step(experts, steps=6, appearance_share=0.34, appearance_frames=8)
    assert steps == [{"high_noise", "low_noise"}] * 2 + [{"high_noise"}] * 2 + [{"low_noise"}] * 2


@pytest.mark.parametrize("expert", ["high_noise", "low_noise"])
def test_one_expert_may_be_left_alone(experts, expert):
    assert trained_by_step(experts, steps=3, experts=expert) == [{expert}] * 3


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"timestep_low": 0.9},
            "leave the low_noise expert .* nothing to learn: they meet at 0.7; set experts high_noise",
        ),
        ({"timestep_high": 0.5}, "leave the high_noise expert .* set experts low_noise"),
    ],
)
def test_levels_that_one_expert_never_sees_are_refused(experts, settings, sentence):
    with (
        pytest.raises(UserError, match=sentence),
        solo(experts, random_clips(experts, 1), steps=4, **settings),
    ):
        pass


def test_an_expert_of_a_model_that_has_one_denoiser_is_refused():
    wan = load_foundation("tiny-random:wan", device="cpu", dtype=torch.float32)
    assert wan.family in BUCKETS
    with (
        pytest.raises(UserError, match="has one denoiser"),
        solo(wan, random_clips(wan, 1), steps=2, experts="high_noise"),
    ):
        pass


def test_image_to_video_trains_on_clips_that_begin_with_their_own_frame():
    foundation = load_foundation("tiny-random:wan-image", device="cpu", dtype=torch.float32)
    video = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    latents, frames = foundation.encode_both(video)
    text = foundation.encode_text(["a fox"])[0]
    clip = RandomClip(latents[0], frames[0], text, text)
    with PackOfOne(foundation, Member("c", "c", solo_config(foundation, steps=4), [clip])) as run:
        reports = list(run.train())
    assert all(report.loss > 0 for report in reports)
