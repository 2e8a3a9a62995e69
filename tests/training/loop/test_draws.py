"""Draws: functions of (seed, concept, step, rank) and of nothing else."""

import subprocess
import sys

import pytest
import torch

from models.seeds import generator, stable_seed
from training.config import make_config
from training.loop.draws import Place, clips_of_step, latent_frame, passes_of
from training.loop.draws import draw as draw_with

SETTING = {
    "seed": 3,
    "concept": "orbit",
    "step": 7,
    "index": 1,
    "global_batch": 2,
    "clips": 4,
    "latent_shape": (4, 3, 2, 2),
    "frames": 9,
}


WHERE = ("concept", "step", "index", "global_batch", "clips", "latent_shape", "frames")


def draw(**given):
    """`training.loop.draws.draw`, settings and place in one."""
    place = {name: given.pop(name) for name in WHERE}
    return draw_with(make_config(given), **place)


def plain(value):
    """With tensors as lists, so that it can be compared."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    return {name: plain(one) for name, one in vars(value).items()} if hasattr(value, "__dict__") else value


def same(a, b):
    return plain(a) == plain(b)


def test_a_draw_repeats_whatever_was_drawn_before():
    first = draw(**SETTING)
    torch.manual_seed(99)
    torch.randn(10)
    draw(**{**SETTING, "step": 8})
    assert same(first, draw(**SETTING))


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"concept": "wave"}, {"step": 8}, {"index": 0}], ids=lambda c: next(iter(c))
)
def test_each_part_of_the_address_changes_the_noise(change):
    assert not torch.equal(draw(**SETTING).noise_CFHW, draw(**{**SETTING, **change}).noise_CFHW)


def test_a_noise_bias_of_one_leaves_every_draw_as_it_was():
    drawn = draw(**SETTING)
    assert same(drawn, draw(**SETTING, noise_bias=1.0))
    g = generator(SETTING["seed"], SETTING["concept"], SETTING["step"], SETTING["index"])
    assert drawn.level == float(torch.rand((), generator=g, dtype=torch.float64))


def test_a_noise_bias_moves_the_noise_level_and_nothing_else():
    even = draw(**SETTING)
    high, low = draw(**SETTING, noise_bias=0.5), draw(**SETTING, noise_bias=2.0)
    assert low.level < even.level < high.level
    assert high.level == pytest.approx(even.level**0.5)
    for biased in (high, low):
        assert torch.equal(biased.noise_CFHW, even.noise_CFHW)
        assert (biased.frames[0].frame, biased.anchor) == (even.frames[0].frame, even.anchor)


def test_noise_levels_lie_in_the_range_that_is_set():
    for step in range(50):
        whole = draw(**{**SETTING, "step": step})
        part = draw(**{**SETTING, "step": step}, timestep_low=0.25, timestep_high=0.75)
        assert part.level == pytest.approx(0.25 + 0.5 * whole.level)


def test_the_frame_of_a_step_shares_level_and_noise_with_the_clip():
    drawn = draw(**SETTING)
    (frame,) = drawn.frames
    at = latent_frame(frame.frame, 9, 3)
    assert frame.level == drawn.level
    assert torch.equal(frame.noise_C1HW, drawn.noise_CFHW[:, at : at + 1])
    assert drawn.temporal
    assert drawn.appearance


def test_the_first_share_of_the_steps_draws_frames_alone_and_the_rest_clips_alone():
    stages = {"steps": 10, "appearance_share": 0.3, "appearance_frames": 4}
    for step in range(10):
        drawn = draw(**{**SETTING, "step": step}, **stages)
        assert drawn.temporal == (step >= 3)
        assert drawn.appearance
        assert len(drawn.frames) == (4 if step < 3 else 0)
        for number, frame in enumerate(drawn.frames):  # a quarter of the schedule each
            assert number / 4 <= frame.level < (number + 1) / 4
        if step >= 3:  # the clip's draws are those of a step that has both
            both = draw(**{**SETTING, "step": step})
            assert torch.equal(drawn.noise_CFHW, both.noise_CFHW)
            assert (drawn.level, drawn.anchor) == (both.level, both.anchor)


def test_no_noise_bias_leaves_the_schedule():
    for step in range(50):
        for bias in (1e-9, 10.0):
            drawn = draw(**{**SETTING, "step": step}, noise_bias=bias)
            assert 0 <= torch.tensor(drawn.level, dtype=torch.float32) < 1


def test_seeds_are_the_same_in_another_process():
    code = "from models.seeds import stable_seed; print(stable_seed(1, 'orbit', 2))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) == stable_seed(1, "orbit", 2)


def test_each_clip_is_seen_once_before_any_is_seen_twice():
    seen = [c for step in range(10) for c in clips_of_step(0, "orbit", step, 5, Place())]
    for first in range(0, 10, 5):
        assert sorted(seen[first : first + 5]) == [0, 1, 2, 3, 4]
    assert seen[:5] != seen[5:10]


def test_the_same_samples_make_a_step_however_they_are_spread():
    def samples(**spread):
        places = [Place(rank=r, **spread) for r in range(spread.get("workers", 1))]
        return sorted(i for p in places for micro in range(p.accumulation) for i in p.indices(micro))

    everything = list(range(4))
    for spread in (
        {"workers": 4},
        {"workers": 2, "accumulation": 2},
        {"batch_size": 4},
        {"workers": 2, "batch_size": 2},
    ):
        assert samples(**spread) == everything


def test_every_rank_knows_the_clips_of_all_ranks():
    place = Place(rank=1, workers=2, batch_size=2)
    drawn = [
        draw(**{**SETTING, "index": i, "global_batch": place.global_batch}).clip
        for i in range(place.global_batch)
    ]
    assert clips_of_step(3, "orbit", 7, 4, place) == drawn


def test_skipping_the_spatial_pass_happens_in_its_share_of_steps():
    config = make_config({"skip_spatial": 0.2})
    passes = [passes_of(config, "orbit", step) for step in range(2000)]
    assert 320 < sum(not one.spatial for one in passes) < 480
    assert all(one.temporal and one.spatial == one.appearance for one in passes)
    never = make_config({"skip_spatial": 0.0})
    assert all(passes_of(never, "orbit", step).spatial for step in range(100))


def test_captions_are_left_out_of_their_share_of_samples_and_nothing_else_changes():
    draws = [draw(**{**SETTING, "step": step}, caption_dropout=0.3) for step in range(1000)]
    left_out = [not one.caption for one in draws]
    assert 240 < sum(left_out) < 360
    assert all(draw(**{**SETTING, "step": step}).caption for step in range(100))
    for step in (left_out.index(True), left_out.index(False)):
        without = draw(**{**SETTING, "step": step})
        assert torch.equal(draws[step].noise_CFHW, without.noise_CFHW)
        assert draws[step].level == without.level
    first = {**SETTING, "steps": 10, "appearance_share": 0.5, "caption_dropout": 1.0}
    stages = [draw(**{**first, "step": step}) for step in range(10)]
    assert [one.caption for one in stages] == [True] * 5 + [False] * 5  # looks are learned with the caption


def test_draws_cover_their_ranges():
    draws = [draw(**{**SETTING, "step": step}) for step in range(200)]
    assert {d.frames[0].frame for d in draws} == set(range(9))
    assert {d.anchor for d in draws} == set(range(3))
    us = torch.tensor([d.level for d in draws])
    assert us.min() < 0.05
    assert 0.95 < us.max() < 1


def test_offset_noise_is_shared_by_the_pixels_of_a_frame():
    even, offset = draw(**SETTING).noise_CFHW, draw(**SETTING, offset_noise=0.5).noise_CFHW
    difference = offset - even
    torch.testing.assert_close(difference, difference[..., :1, :1].expand_as(difference))
    assert difference.abs().max() > 0.05


def test_a_frame_lends_the_noise_of_its_latent_frame():
    assert [latent_frame(f, 9, 3) for f in range(9)] == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert [latent_frame(f, 4, 4) for f in range(4)] == [0, 1, 2, 3]
