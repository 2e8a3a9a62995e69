"""Draws: functions of (seed, concept, step, rank) and of nothing else."""

import subprocess
import sys

import pytest
import torch

from models.seeds import generator, stable_seed
from training.draws import Place, clips_of_step, draw, latent_frame, skips_spatial

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


def same(a, b):
    return torch.equal(a.noise_CFHW, b.noise_CFHW) and {**vars(a), "noise_CFHW": 0} == {
        **vars(b),
        "noise_CFHW": 0,
    }


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
    assert drawn.u == float(torch.rand((), generator=g, dtype=torch.float64))


def test_a_noise_bias_moves_the_noise_level_and_nothing_else():
    plain = draw(**SETTING)
    high, low = draw(**SETTING, noise_bias=0.5), draw(**SETTING, noise_bias=2.0)
    assert low.u < plain.u < high.u
    assert high.u == pytest.approx(plain.u**0.5)
    for biased in (high, low):
        assert torch.equal(biased.noise_CFHW, plain.noise_CFHW)
        assert (biased.frame, biased.anchor) == (plain.frame, plain.anchor)


def test_no_noise_bias_leaves_the_range_of_u():
    for step in range(50):
        for bias in (1e-9, 10.0):
            u = torch.tensor(draw(**{**SETTING, "step": step}, noise_bias=bias).u, dtype=torch.float32)
            assert 0 <= u < 1


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
    skipped = sum(skips_spatial(0, "orbit", step, 0.2) for step in range(2000))
    assert 320 < skipped < 480
    assert not any(skips_spatial(0, "orbit", step, 0.0) for step in range(100))


def test_draws_cover_their_ranges():
    draws = [draw(**{**SETTING, "step": step}) for step in range(200)]
    assert {d.frame for d in draws} == set(range(9))
    assert {d.anchor for d in draws} == set(range(3))
    us = torch.tensor([d.u for d in draws])
    assert us.min() < 0.05
    assert 0.95 < us.max() < 1


def test_offset_noise_is_shared_by_the_pixels_of_a_frame():
    plain, offset = draw(**SETTING).noise_CFHW, draw(**SETTING, offset_noise=0.5).noise_CFHW
    difference = offset - plain
    torch.testing.assert_close(difference, difference[..., :1, :1].expand_as(difference))
    assert difference.abs().max() > 0.05


def test_a_frame_lends_the_noise_of_its_latent_frame():
    assert [latent_frame(f, 9, 3) for f in range(9)] == [0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert [latent_frame(f, 4, 4) for f in range(4)] == [0, 1, 2, 3]
