"""Motion fidelity of sprites on cases with a known answer: rendered clips whose motion is known."""

import numpy as np
import pytest

from datasets.sprites.captions import canonical
from datasets.sprites.motions import KNOWN, NOVEL
from datasets.sprites.render import render_clip
from datasets.sprites.world import Background, Scene, Sprite, appearances
from evaluation.metric import Case, Metric, Reference
from evaluation.metrics.trajectories import (
    MotionFidelity,
    ScaleFidelity,
    positions,
    reference_ceiling,
    scale_agreement,
    trajectory_agreement,
)

ORBIT = NOVEL["orbit"]
RED_STAR = Scene(Sprite("star", "red"), Background("gray"))
BLUE_CROSS = Scene(Sprite("cross", "yellow"), Background("navy", "checkered"))
UNSEEN = Scene(
    Sprite("square", "white", "striped"), Background("mint", "checkered")
)  # too alike for the tracker


def way(name, frames=8, seed=0):
    x, y, _ = (KNOWN | NOVEL)[name].trajectory(frames, np.random.default_rng(seed)).on_screen()
    return np.stack([x, y], axis=1)


def reference(scene, motion, seed=0):
    return Reference(render_clip(scene, motion, seed=seed), canonical(scene, motion))


def fidelity(video, *references, metric=None):
    return (metric or MotionFidelity())([Case(video, "", 0, references)]).values[0]


def test_position_and_scale_do_not_matter():
    assert trajectory_agreement(way("orbit"), 0.4 * way("orbit") + [0.3, -0.2]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("one", "other", "answer"),
    [
        ("right", "right", 1.0),
        ("right", "left", -1.0),
        ("right", "up", 0.0),
        ("right", "up-right", np.sqrt(0.5)),
        ("still", "still", 1.0),
        ("still", "right", 0.0),
    ],
)
def test_the_answer_of_straight_ways_is_the_cosine_of_their_angle(one, other, answer):
    assert trajectory_agreement(way(one), way(other)) == pytest.approx(answer, abs=1e-9)
    assert trajectory_agreement(way(other), way(one)) == pytest.approx(answer, abs=1e-9)


def test_lost_frames_cost_their_share_and_never_help():
    seen = way("orbit")
    seen[5:7] = np.nan
    assert trajectory_agreement(seen, way("orbit")) == pytest.approx(6 / 8)
    against = way("left")
    against[5:7] = np.nan
    assert trajectory_agreement(against, way("right")) == pytest.approx(-1)


def test_fewer_than_three_common_frames_score_nothing():
    seen = way("right")
    seen[2:] = np.nan
    assert trajectory_agreement(seen, way("right")) == 0


def test_clips_of_unequal_length_are_compared_at_the_same_shares_of_their_time():
    assert trajectory_agreement(way("orbit", 15), way("orbit", 8)) == pytest.approx(1, abs=1e-9)


def test_the_same_motion_in_other_looks_at_another_place_is_faithful():
    assert fidelity(render_clip(BLUE_CROSS, ORBIT, seed=5), reference(RED_STAR, ORBIT)) > 0.99


def test_opposite_and_absent_motion_are_not():
    right = reference(RED_STAR, KNOWN["right"])
    assert fidelity(render_clip(BLUE_CROSS, KNOWN["left"], seed=5), right) < -0.99
    assert fidelity(render_clip(BLUE_CROSS, KNOWN["still"], seed=5), right) == 0


def test_a_video_without_an_object_scores_nothing():
    empty = np.broadcast_to(render_clip(RED_STAR, ORBIT)[:, :1, :1], (8, 64, 64, 3))
    assert fidelity(empty, reference(RED_STAR, ORBIT)) == 0


def test_several_references_are_averaged_and_none_gives_no_value():
    video = render_clip(BLUE_CROSS, KNOWN["right"], seed=5)
    pair = reference(RED_STAR, KNOWN["right"]), reference(RED_STAR, KNOWN["up"])
    assert fidelity(video, *pair) == pytest.approx(0.5, abs=0.05)
    assert fidelity(video) is None


def test_a_reference_that_the_tracker_does_not_see_is_left_out_and_no_miss_of_the_video():
    video = render_clip(BLUE_CROSS, ORBIT, seed=5)
    seen, unseen = reference(RED_STAR, ORBIT), reference(UNSEEN, ORBIT)
    assert np.isnan(positions(unseen.video_FHWC)).all()
    assert fidelity(video, unseen) is None
    assert fidelity(video, seen, unseen) == fidelity(video, seen) > 0.99


def test_what_moves_without_the_objects_place_changing_is_measured_by_its_size():
    grows = reference(RED_STAR, KNOWN["grows"])
    scale = ScaleFidelity()
    assert fidelity(render_clip(BLUE_CROSS, KNOWN["grows"], seed=3), grows, metric=scale) > 0.97
    assert fidelity(render_clip(BLUE_CROSS, KNOWN["shrinks"], seed=3), grows, metric=scale) < -0.97
    assert fidelity(render_clip(BLUE_CROSS, KNOWN["still"], seed=3), grows, metric=scale) == 0
    assert fidelity(render_clip(BLUE_CROSS, ORBIT, seed=3), reference(RED_STAR, ORBIT), metric=scale) is None
    assert scale_agreement(np.geomspace(1, 2, 8), np.geomspace(0.1, 0.3, 8)) == pytest.approx(1)


def test_the_ceiling_is_what_references_score_against_one_another():
    same = [reference(scene, ORBIT, seed) for seed, scene in enumerate(appearances(3))]
    assert 0.98 < reference_ceiling(same) <= 1
    a, b = reference(RED_STAR, KNOWN["right"]), reference(BLUE_CROSS, KNOWN["up-right"])
    expected = trajectory_agreement(positions(a.video_FHWC), positions(b.video_FHWC))
    assert reference_ceiling([a, b]) == pytest.approx(expected)
    assert expected == pytest.approx(np.sqrt(0.5), abs=0.05)
    assert reference_ceiling([a]) is None
    assert reference_ceiling([a, b], ScaleFidelity()) is None
    unseen = reference(UNSEEN, KNOWN["right"])
    assert reference_ceiling([a, unseen, b]) == reference_ceiling([a, b])
    assert reference_ceiling([a, unseen]) is None


def test_they_are_metrics():
    assert isinstance(MotionFidelity(), Metric)
    assert isinstance(ScaleFidelity(), Metric)
