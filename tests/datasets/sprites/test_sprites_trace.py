"""A way out of a clip: of a point that is named, or of what moves most."""

from types import SimpleNamespace

import numpy as np
import pytest

from datasets.sprites.motion_sources import read_trajectory
from datasets.sprites.trace import EXTENT, trace_clip, write_trajectory
from datasets.sprites.wander import agreement
from datasets.tracklets import followed
from infra.errors import UserError

HEIGHT, WIDTH, FRAMES = 96, 160, 16
RNG = np.random.default_rng(0)
BEHIND = RNG.integers(60, 120, (HEIGHT // 8, WIDTH // 8)).repeat(8, 0).repeat(8, 1)
PATCH = RNG.integers(0, 256, (5, 5)).repeat(5, 0).repeat(5, 1)


def way(t):
    """Middle of the patch, pixels [2]: a bow to the right."""
    return np.array([30 + 100 * t, 30 + 160 * t * (1 - t)])


def video(count=FRAMES):
    """A patch with structure that goes its way over a background at rest."""
    frames = np.repeat(BEHIND[None, ..., None], count, 0).repeat(3, -1).astype(np.uint8)
    for f in range(count):
        x, y = way(f / (count - 1)).round().astype(int)
        frames[f, y - 12 : y + 13, x - 12 : x + 13] = PATCH[..., None]
    return frames


def true_way():
    return np.array([way(f / (FRAMES - 1)).round() for f in range(FRAMES)])


@pytest.mark.parametrize("point", [None, (30, 30)])
def test_the_way_is_that_of_what_moves(point):
    found = trace_clip(video(), point)
    assert len(found.path_F2) >= FRAMES - 2
    there = true_way()[found.first : found.first + len(found.path_F2)]
    assert agreement(found.path_F2, there) > 0.995
    assert np.ptp(found.path_F2, axis=0).max() == pytest.approx(EXTENT)
    assert (found.path_F2.max(0) + found.path_F2.min(0)) / 2 == pytest.approx(0.5)
    assert np.ptp(found.pixels_F2[:, 0]) == pytest.approx(100, abs=8)
    assert found.extent == pytest.approx(100 / np.hypot(HEIGHT, WIDTH), abs=0.05)


def test_points_are_followed_in_the_clips_own_pixels():
    small = video(48)
    large = small.repeat(4, 1).repeat(4, 2)  # more pixels than are followed at
    for frames, scale in ((small, 1), (large, 4)):
        [path] = followed(frames, np.array([[30 * scale, 30 * scale]]))
        assert path[[0, -1]] / scale == pytest.approx(true_way()[[0, -1]], abs=1.5)


def test_the_file_is_one_that_render_reads(tmp_path):
    found = trace_clip(video())
    path = tmp_path / "bow.json"
    write_trajectory(found, np.arange(FRAMES) / 12, path)
    track = read_trajectory(path).trajectory(len(found.path_F2), SimpleNamespace())
    assert np.stack([track.x, track.y], 1) == pytest.approx(found.path_F2, abs=2e-4)


@pytest.mark.parametrize(
    ("frames", "point", "says"),
    [
        (video()[:3], None, "3 frames; a path needs at least 5"),
        (video()[:1].repeat(8, 0), None, "nothing in the clip moves"),
        (video(), (400, 10), "not in the frame; x must be 0 to 159"),
        (video(), (100, 88), "rests"),
        (np.zeros((8, 64, 64, 3), np.uint8), None, "no point of the clip can be tracked"),
        (np.random.default_rng(1).integers(0, 256, (8, 64, 64, 3), np.uint8), (30, 30), "lost after"),
    ],
)
def test_what_cannot_be_traced_is_answered_in_one_sentence(frames, point, says):
    with pytest.raises(UserError, match=says) as caught:
        trace_clip(frames, point)
    assert "\n" not in caught.value.message
