"""Which metrics apply to what, and what they share."""

from pathlib import Path

import numpy as np
import pytest

from datasets.sprites.captions import canonical
from datasets.sprites.motions import KNOWN, NOVEL
from datasets.sprites.render import render_clip
from datasets.sprites.world import Background, Scene, Sprite, appearances
from datasets.video.decode import decode
from evaluation.metric import Case, Metric, Reference
from evaluation.metrics import is_sprite_world, metrics_for
from evaluation.metrics.memo import Memo, content_key
from evaluation.metrics.sprite_tracking import shown, tracked
from infra.errors import UserError

CLIPS = sorted((Path(__file__).parents[2] / "assets" / "clips").glob("*.mp4"))


@pytest.mark.parametrize("i", range(10))
def test_rendered_clips_are_sprites(i):
    motion = list((KNOWN | NOVEL).values())[3 * i]
    assert is_sprite_world(render_clip(appearances(10)[i], motion, seed=i))


@pytest.mark.parametrize("clip", CLIPS, ids=[c.stem for c in CLIPS])
def test_other_clips_are_not_whatever_their_size(clip):
    video = decode(clip).frames_FHWC[::6]
    side = min(video.shape[1:3])
    square = video[:, :side, -side:]
    assert not is_sprite_world(video)
    assert not is_sprite_world(square)
    assert not is_sprite_world(square[:, ::4, ::4])


def test_noise_and_emptiness_are_not():
    assert not is_sprite_world(np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype(np.uint8))
    assert not is_sprite_world(np.full((4, 64, 64, 3), 128, np.uint8))


def test_large_frames_are_tracked_as_small_ones_are():
    scene = Scene(Sprite("heart", "pink"), Background("teal", "checkered"))
    small, large = (render_clip(scene, NOVEL["orbit"], size=size, seed=4) for size in (64, 192))
    assert shown(large) == shown(small)
    assert np.abs(tracked(large).x - tracked(small).x).max() < 0.01


def test_a_video_is_tracked_once_for_all_metrics_and_the_memo_forgets():
    calls = []

    def measure(video, factor):
        calls.append(factor)
        return float(video.sum()) * factor

    memo = Memo(measure, size=2)
    a, b, c = (np.full((1, 2, 2, 3), v, np.uint8) for v in (1, 2, 3))
    assert [memo(a, 1), memo(a.copy(), 1), memo(a, 2)] == [12, 12, 24]
    assert calls == [1, 2]
    memo(b, 1), memo(c, 1)
    memo(a, 1)
    assert calls == [1, 2, 1, 1, 1]
    assert content_key(a) != content_key(a.reshape(2, 1, 2, 3))


@pytest.mark.parametrize("sprites", [True, False])
def test_the_catalogue_needs_no_weights_and_each_of_its_metrics_measures_within_its_range(sprites):
    scenes = appearances(3)
    motion = KNOWN["right"]
    reference = Reference(render_clip(scenes[0], motion, seed=1), canonical(scenes[0], motion))
    cases = [Case(render_clip(s, motion, seed=2), canonical(s, motion), 2, (reference,)) for s in scenes[1:]]
    metrics = metrics_for(sprites)
    assert len({metric.name for metric in metrics}) == len(metrics)
    for metric in metrics:
        assert isinstance(metric, Metric)
        assert type(metric).__doc__
        score = metric(cases)
        assert score.metric == metric.name
        assert all(metric.range[0] <= value <= metric.range[1] for value in score.found)


def test_weights_that_were_named_but_are_missing_are_an_error(tmp_path):
    with pytest.raises(UserError, match="neither an existing folder nor a hub id"):
        metrics_for(True, clip=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"PickScore weights .* cannot be loaded"):
        metrics_for(True, pickscore=str(tmp_path))
