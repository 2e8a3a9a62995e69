"""The tracker reads from pixels what the renderer drew."""

import numpy as np
import pytest

from datasets.sprites.motions import KNOWN
from datasets.sprites.render import render_clip
from datasets.sprites.track import detect, track
from datasets.sprites.world import Background, Scene, Sprite
from evaluation.tracker_accuracy import tracker_accuracy


@pytest.mark.parametrize("blur", [0.0, 0.7])
def test_clips_are_measured_right(blur):
    got = tracker_accuracy(62, blur=blur, seed=11)  # each motion twice
    for name in ("colour", "background", "background_kind", "presence", "absence"):
        assert got[name] >= 0.98, name
    assert got["shape"] >= 0.93
    assert got["texture"] >= 0.8
    assert got["position error, median"] < 0.3  # pixels
    assert got["position error, 95 %"] < 1.5
    assert got["radius error, median"] < 0.6


def test_a_frame_without_an_object_is_seen_as_empty():
    clip = render_clip(Scene(Sprite("star", "red"), Background("teal", "gradient")), KNOWN["still"], seed=0)
    empty = np.broadcast_to(clip[:, :, :1], clip.shape)  # the left column, wherever the object is not
    detections = track(empty).detections
    assert not any(s.found for s in detections)
    assert {s.background for s in detections} == {"teal"}
    assert detections[0].colour is None
    assert detections[0].confidence == 0


def test_an_object_that_vanishes_is_missed_in_those_frames_only():
    clip = render_clip(Scene(Sprite("heart", "white"), Background("brown")), KNOWN["right"], seed=2).copy()
    clip[3:5] = clip[0, 0, 0]
    seen = track(clip)
    assert seen.found.tolist() == [True] * 3 + [False] * 2 + [True] * 3
    assert not seen.present
    assert seen.most("shape") == "heart"
    assert seen.displacement()[0] == pytest.approx(0.42, abs=0.02)


def test_noise_is_no_confident_object():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert detect(noise).confidence < 0.6
