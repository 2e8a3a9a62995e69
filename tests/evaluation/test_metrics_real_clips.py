"""Metrics of real clips on synthetic ones: textures moved by known amounts."""

import numpy as np
import pytest
from scipy import ndimage

from evaluation.metric import Case, Reference
from evaluation.metrics.consistency import WarpingError, warping_error
from evaluation.metrics.diversity import ColourDiversity
from evaluation.metrics.tracklets import TrackletFidelity, motion_fidelity_score, tracklet_correlation
from evaluation.metrics.trajectories import reference_ceiling

F, SIDE = 10, 96


def texture(seed, side=4 * SIDE):
    """[side, side, 3] in 0..255, smooth over about 3 pixels."""
    noise = np.random.default_rng(seed).normal(size=(side, side, 3))
    soft = ndimage.gaussian_filter(noise, (2.5, 2.5, 0))
    return np.clip(128 + 60 * soft / soft.std(), 0, 255)


def sliding(seed, dx, dy, frames=F):
    """A texture that moves by (dx, dy) pixels a frame."""
    big, middle = texture(seed), 1.5 * SIDE
    grid = np.arange(SIDE) + middle
    clip = [
        np.stack(
            [
                ndimage.map_coordinates(
                    big[..., c], np.meshgrid(grid - dy * f, grid - dx * f, indexing="ij"), order=1
                )
                for c in range(3)
            ],
            axis=-1,
        )
        for f in range(frames)
    ]
    return np.stack(clip).astype(np.uint8)


def patch_moving(seed, dx, dy):
    """A textured square that moves over a texture at rest."""
    clip = np.repeat(texture(seed)[None, :SIDE, :SIDE], F, axis=0).astype(np.uint8)
    square = texture(seed + 100)[:32, :32].astype(np.uint8)
    for f in range(F):
        x, y = (int(32 + d * (f - F / 2)) for d in (dx, dy))
        clip[f, y : y + 32, x : x + 32] = square
    return clip


def fidelity(video, *references):
    return TrackletFidelity()([Case(video, "", 0, tuple(Reference(r, "") for r in references))]).values[0]


def test_the_same_motion_on_another_texture_is_faithful_and_speed_does_not_matter():
    assert fidelity(sliding(1, 2, 0), sliding(2, 2, 0)) > 0.97
    assert fidelity(sliding(1, 1, 0), sliding(2, 3, 0)) > 0.95


@pytest.mark.parametrize(("dx", "dy", "answer"), [(-2, 0, -1), (0, 2, 0), (1.5, 1.5, np.sqrt(0.5))])
def test_other_directions_score_the_cosine_of_their_angle(dx, dy, answer):
    assert fidelity(sliding(1, dx, dy), sliding(2, 2, 0)) == pytest.approx(
        answer, abs=0.15
    )  # best matches err upwards


def test_a_clip_at_rest_does_not_agree_with_one_that_moves():
    still = sliding(1, 0, 0)
    assert fidelity(still, sliding(2, 2, 0)) == 0
    assert fidelity(still, sliding(2, 0, 0)) == 1


def test_where_nothing_can_be_followed_a_generated_clip_scores_nothing_and_a_reference_says_nothing():
    blank = np.full((F, SIDE, SIDE, 3), 90, np.uint8)
    assert fidelity(blank, sliding(2, 2, 0)) == 0
    assert fidelity(sliding(2, 2, 0), blank) is None


def test_the_moving_part_counts_and_the_background_at_rest_does_not():
    assert fidelity(patch_moving(1, 3, 0), patch_moving(2, 3, 0)) > 0.9
    assert fidelity(patch_moving(1, -3, 0), patch_moving(2, 3, 0)) < -0.9


def test_both_directions_count():
    """A clip with both motions holds the reference's, but half of what it does the reference does not."""
    t = np.linspace(0, 0.3, 6)
    right, left = np.stack([t, 0 * t], 1)[None], np.stack([-t, 0 * t], 1)[None]
    both = np.concatenate([right, left])
    assert motion_fidelity_score(right, right + 0.5) == pytest.approx(1)
    assert motion_fidelity_score(both, right) == pytest.approx((0 + 1) / 2)
    assert motion_fidelity_score(right, both) == pytest.approx((0 + 1) / 2)


def test_tracklets_are_compared_over_the_steps_that_both_were_seen():
    t = np.linspace(0, 0.5, 8)
    right = np.stack([t, 0 * t], 1)[None]
    lost, late = right.copy(), right.copy()
    lost[:, 4:] = np.nan
    late[:, :5] = np.nan
    assert tracklet_correlation(lost, right)[0, 0] == pytest.approx(1)
    assert np.isnan(tracklet_correlation(lost, late)[0, 0])
    pauses = right.copy()
    pauses[:, 4:] = pauses[:, 3:4]  # goes for 3 of 7 steps
    assert tracklet_correlation(pauses, right)[0, 0] == pytest.approx(3 / 7)


def test_lengths_may_differ_and_too_short_clips_give_no_value():
    assert fidelity(sliding(1, 1, 0, frames=19), sliding(2, 2, 0)) > 0.95
    assert fidelity(sliding(1, 2, 0)[:4], sliding(2, 2, 0)) is None
    assert fidelity(sliding(1, 2, 0)) is None


def test_the_ceiling_of_real_references():
    references = [Reference(sliding(seed, 2, 0), "") for seed in (1, 2)]
    assert reference_ceiling(references, TrackletFidelity()) > 0.97


def test_motion_costs_no_warping_error_and_flicker_costs_its_square():
    assert warping_error(sliding(1, 0, 0)) == pytest.approx(0, abs=1e-6)
    assert warping_error(sliding(1, 2, 0)) < 0.001
    flicker = np.clip(sliding(1, 0, 0), 40, 215)
    flicker[1::2] += 25
    assert warping_error(flicker) == pytest.approx((25 / 255) ** 2, rel=0.15)


def test_noise_costs_more_than_flicker_and_one_frame_nothing_at_all():
    noise = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3)).astype(np.uint8)
    assert warping_error(noise) > 0.03
    assert WarpingError()([Case(noise[:1], "", 0)]).values == (None,)


def test_colour_diversity():
    def plain(*rgb):
        return Case(np.broadcast_to(np.uint8(rgb), (3, 8, 8, 3)), "", 0)

    def halves():
        video = np.zeros((3, 8, 8, 3), np.uint8)
        video[:, :4] = 200, 30, 30
        video[:, 4:] = 30, 30, 200
        return Case(video, "", 0)

    red, blue = plain(200, 30, 30), plain(30, 30, 200)
    assert ColourDiversity()([red, red]).values == (0.0,)
    assert ColourDiversity()([red, blue]).values == (1.0,)
    assert ColourDiversity()([red, halves()]).values == (pytest.approx(np.sqrt(1 - np.sqrt(0.5))),)
    assert ColourDiversity()([red, red, blue]).values == (pytest.approx(2 / 3),)
    assert ColourDiversity()([red]).values == (None,)
