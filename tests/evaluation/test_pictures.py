"""Pictures inside a page: what is drawn over frames, and that it is the video that is shown."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from datasets.sprites.motions import NOVEL
from datasets.sprites.render import render_clip
from datasets.sprites.track import track
from datasets.sprites.world import Scene
from evaluation.pictures import animation_uri, draw_trajectory, strip_uri


@pytest.fixture
def clip():
    return render_clip(Scene(), NOVEL["zigzag"])


def opened(uri):
    assert uri.startswith("data:image/webp;base64,")
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_the_dot_is_where_the_tracker_found_the_object(clip):
    seen = track(clip)
    drawn = draw_trajectory(clip, seen, enlarge=3)
    assert drawn.shape == (8, 192, 192, 3)
    for frame, x, y in zip(drawn, seen.x, seen.y, strict=True):
        pink = np.argwhere(np.abs(frame.astype(int) - (255, 64, 129)).sum(-1) < 12)
        assert len(pink) > 8
        assert pink.mean(0) == pytest.approx([y * 192, x * 192], abs=2)


def test_away_from_the_path_the_frames_are_as_they_were(clip):
    seen = track(clip)
    drawn = draw_trajectory(clip, seen, enlarge=1)
    rows, columns = np.mgrid[0:64, 0:64] + 0.5
    near = np.min(
        [np.hypot(rows - y * 64, columns - x * 64) for x, y in zip(seen.x, seen.y, strict=True)], axis=0
    )
    box = (rows > seen.y.min() * 64 - 4) & (rows < seen.y.max() * 64 + 4)
    far = (near > 6) & ~box
    assert np.array_equal(drawn[:, far], clip[:, far])
    assert not np.array_equal(drawn, clip)


def test_where_nothing_was_found_nothing_is_drawn(clip):
    empty = np.full_like(clip, 128)
    assert np.array_equal(draw_trajectory(empty, track(empty), enlarge=1), empty)


def test_a_strip_holds_the_frames_and_an_animation_all_of_them(clip):
    strip = opened(strip_uri(clip, columns=4, height=64))
    assert strip.size == (4 * 66 - 2, 64)
    assert np.array_equal(np.asarray(strip.convert("RGB"))[:, :64], clip[0])
    assert np.array_equal(np.asarray(strip.convert("RGB"))[:, -64:], clip[-1])
    assert opened(animation_uri(clip, 8)).n_frames == 8
    large = np.zeros((3, 96, 128, 3), np.uint8)
    assert opened(strip_uri(large, height=48)).size == (3 * 66 - 2, 48)
