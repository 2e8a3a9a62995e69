"""Frames are chosen by time, pictures are cropped about the middle, and scene cuts are seen."""

import numpy as np
import pytest
from sample_videos import moving_picture, write_video

from datasets.clip_sets.select import Selection, Unsuitable, cover, cut, scene_cuts, windows
from datasets.video.decode import VideoFile, open_video


def video(times, fps, height=64, width=64, pixel_aspect=1.0) -> VideoFile:
    return VideoFile("v.mp4", b"", width, height, pixel_aspect, np.array(times, float), fps, "pyav")


def chosen(times, fps, frames, at, start=0.0, every=False):
    found = windows(
        video(times, fps), Selection(frames, 64, 64, fps=at, start=start, windows=None if every else 1)
    )
    return [list(window.indices) for window in found]


def test_frames_are_taken_at_even_times():
    thirty = np.arange(60) / 30
    assert chosen(thirty, 30, 8, at=30) == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert chosen(thirty, 30, 8, at=15) == [[0, 2, 4, 6, 8, 10, 12, 14]]
    assert chosen(thirty, 30, 8, at=12) == [[0, 2, 5, 7, 10, 12, 15, 17]]
    assert chosen(thirty, 30, 4, at=10, start=1.0) == [[30, 33, 36, 39]]
    assert chosen(thirty, 30, 4, at=None) == [[0, 1, 2, 3]]


def test_times_rounded_to_milliseconds_skip_and_repeat_nothing():
    """WebM stores milliseconds: 0, 42, 83, 125, ..."""
    times = np.round(np.arange(48) / 24, 3)
    assert chosen(times, 24, 24, at=24) == [list(range(24))]
    assert chosen(times, 24, 24, at=12) == [list(range(0, 48, 2))]


def test_uneven_times_give_the_frame_that_a_player_shows_at_each_moment():
    times = [0.0, 0.1, 0.2, 1.2, 1.3, 1.4]
    assert chosen(times, 5 / 1.4, 8, at=5) == [[0, 2, 2, 2, 2, 2, 3, 5]]


def test_a_frame_that_begins_a_little_late_is_the_one_of_its_moment():
    """A phone's camera shakes its times by milliseconds; the clip has each frame once."""
    shaken = np.arange(60) / 30 + np.random.default_rng(0).uniform(-0.002, 0.002, 60)
    assert chosen(shaken - shaken[0], 30, 60, at=30) == [list(range(60))]


def test_a_last_frame_that_stands_for_seconds_is_shown_for_seconds():
    held = video(np.arange(20) / 10, 10)
    held.last_duration = 3.0
    (window,) = windows(held, Selection(10, 64, 64, fps=2))
    assert list(window.indices) == [0, 5, 10, 15, 19, 19, 19, 19, 19, 19]
    with pytest.raises(Unsuitable, match="too short"):
        windows(held, Selection(11, 64, 64, fps=2))


def test_all_windows_follow_one_another_and_a_rest_is_left():
    times = np.arange(50) / 10
    assert [window[0] for window in chosen(times, 10, 8, at=10, every=True)] == [0, 8, 16, 24, 32, 40]
    assert chosen(times, 10, 50, at=10, every=True) == [list(range(50))]


@pytest.mark.parametrize(
    ("frames", "at", "start"), [(51, 10, 0), (26, 5, 0), (10, 10, 4.5), (2, 10, 5.0), (2, 10, 999)]
)
def test_a_video_that_ends_too_early_is_refused_and_told_how_long_it_is(frames, at, start):
    with pytest.raises(Unsuitable, match="too short"):
        chosen(np.arange(50) / 10, 10, frames, at, start)


def test_a_picture_is_covered_by_its_middle():
    frame = np.zeros((100, 300, 3), np.uint8)
    frame[:, 100:200] = 255
    assert cover(frame, 50, 50).min() > 230  # the filter looks a pixel past the edge
    tall = np.swapaxes(frame, 0, 1)
    assert cover(np.ascontiguousarray(tall), 64, 64).min() > 230
    np.testing.assert_array_equal(cover(frame, 100, 300), frame)
    np.testing.assert_array_equal(cover(frame, 100, 100), frame[:, 100:200])
    # pixels twice as wide as high: the picture is shown 600 wide, the middle sixth of it is square
    assert cover(frame, 100, 600, pixel_aspect=2.0).shape == (100, 600, 3)
    assert cover(frame, 100, 200, pixel_aspect=2.0).min() > 100
    assert (cover(frame, 100, 200, pixel_aspect=2.0)[:, 2:-2] == 255).all()


def test_a_picture_is_never_enlarged():
    for height, width, aspect in [(63, 64, 1.0), (64, 63, 1.0), (64, 64, 0.9)]:
        with pytest.raises(Unsuitable, match="too small"):
            windows(video(np.arange(20) / 10, 10, height, width, aspect), Selection(8, 64, 64))
    assert windows(video(np.arange(20) / 10, 10, 64, 40, 1.6), Selection(8, 64, 64))


def test_what_is_cut_is_what_was_chosen(tmp_path):
    frames = moving_picture(40, 96, 128)
    path = write_video(tmp_path / "a.mp4", frames, fps=20, options={"crf": "1"}, pixels="yuv444p")
    selection = Selection(6, 96, 128, fps=5, start=0.5)
    opened = open_video(path)
    got = cut(opened, windows(opened, selection)[0], selection)
    assert np.abs(got.astype(float) - frames[10:34:4]).mean() < 2


def test_scene_cuts_are_found_and_motion_is_none():
    calm = moving_picture(20, 96, 128, seed=3, step=6)
    two = np.concatenate([calm[:9], moving_picture(11, 96, 128, seed=4)])
    three = np.concatenate([two[:15], moving_picture(5, 96, 128, seed=5)])
    assert scene_cuts(calm) == []
    assert scene_cuts(moving_picture(16, 96, 128, seed=1, step=40)) == []
    assert scene_cuts(two) == [9]
    assert scene_cuts(three) == [9, 15]
    assert scene_cuts(calm[:2]) == []
    assert scene_cuts(np.stack([np.full((64, 64, 3), level, np.uint8) for level in (20, 20, 200, 200)])) == [
        2
    ]


@pytest.mark.parametrize("step", [3, 7, 15, 30])
@pytest.mark.parametrize("still", [0, 6])
def test_a_ramp_of_brightness_is_no_scene_cut(step, still):
    """Also where it begins and ends at once, and crosses every level of a histogram."""
    grey = np.clip(16 + step * np.maximum(np.arange(16) - still, 0), 0, 235)
    flat = np.broadcast_to(grey[:, None, None, None], (16, 64, 64, 3)).astype(np.uint8)
    assert scene_cuts(flat) == []
    picture = moving_picture(1, 96, 128, seed=3)[0].astype(float)
    assert scene_cuts(np.stack([picture * (g / 235) for g in grey]).astype(np.uint8)) == []


def test_a_lamp_that_goes_out_is_no_scene_cut():
    calm = moving_picture(20, 96, 128, seed=3, step=6)
    calm[10:] = (calm[10:].astype(int) * 3 // 5).astype(np.uint8)
    assert scene_cuts(calm) == []
