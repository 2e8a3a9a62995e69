"""Bytes changed in mid-file: the damage is seen and refused, what lies before and after a key frame is used."""

import random
from pathlib import Path

import numpy as np
import pytest
from odd_videos import packets_of
from sample_videos import moving_picture, write_video

import datasets.video.videofile
from datasets.clip_sets.select import Selection, cut, windows
from datasets.video.animation import MAX_ANIMATION_PIXELS
from datasets.video.decode import UnreadableVideo, decode, open_video

CODECS = {
    "h264.mp4": {"options": {"g": "12", "bf": "0", "crf": "16"}},
    "h264_b.mkv": {"options": {"g": "12", "bf": "2", "crf": "16"}},
    "baseline.mp4": {"options": {"g": "12", "profile": "baseline", "crf": "16"}},
    "vp9.webm": {
        "codec": "libvpx-vp9",
        "options": {"g": "12", "b": "2M", "deadline": "realtime", "cpu-used": "6"},
    },
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "12", "q": "2"}},
    "mjpeg.mov": {"codec": "mjpeg", "pixels": "yuvj420p", "options": {"qmin": "2", "qmax": "4"}},
    "ffv1.mkv": {"codec": "ffv1", "options": {"slicecrc": "1", "level": "3", "slices": "4"}},
}


def noisy(num_frames: int) -> np.ndarray:
    """A moving picture with enough in it that packets are large."""
    grain = np.random.default_rng(1).integers(-20, 20, (num_frames, 96, 128, 3))
    return np.clip(moving_picture(num_frames, 96, 128) + grain, 0, 255).astype(np.uint8)


def scratch(path: Path, how: str) -> None:
    data, dice = bytearray(path.read_bytes()), random.Random(1)
    for position, size in packets_of(path)[14:17]:
        if how == "one bit":
            data[position + size // 2] ^= 0x10
        elif how == "random bytes":
            for _ in range(64):
                data[position + 12 + dice.randrange(size - 12)] = dice.randrange(256)
        else:
            data[position + size // 2 : position + size] = bytes(size - size // 2)
    path.write_bytes(data)


# What no decoder can tell: garbage that is a valid stream. It has no checksum, and decodes to a wrong picture.
UNKNOWABLE = {("h264_b.mkv", "half zero"), ("baseline.mp4", "one bit")}
HOW = ("one bit", "random bytes", "half zero")


@pytest.mark.parametrize(("name", "how"), [(n, h) for n in CODECS for h in HOW if (n, h) not in UNKNOWABLE])
def test_no_damaged_picture_passes_for_what_was_recorded(tmp_path, name, how):
    path = write_video(tmp_path / name, noisy(40), **CODECS[name])
    whole = decode(path).frames_FHWC.astype(int)
    scratch(path, how)
    video = open_video(path)
    assert video.num_frames == 40
    refused = []
    for i in range(40):
        try:
            (picture,) = video.frames([i])
            assert np.abs(picture - whole[i]).mean() < 3, i
        except UnreadableVideo:
            refused.append(i)
    assert set(refused) & {14, 15, 16}
    assert min(refused) >= 11  # what a decoder held back may be doubted
    assert max(refused) < 25  # the next key frame starts afresh


def test_vp8_data_that_ends_early_is_noticed(tmp_path):
    """One changed bit is not: the stream has no checksum."""
    options = {"g": "12", "b": "2M", "deadline": "realtime", "auto-alt-ref": "0"}
    path = write_video(tmp_path / "a.webm", noisy(40), codec="libvpx", options=options)
    assert len(list(open_video(path).frames(range(40)))) == 40
    scratch(path, "random bytes")
    with pytest.raises(UnreadableVideo, match="damaged"):
        list(open_video(path).frames(range(40)))


def test_a_window_before_the_damage_and_one_after_are_cut(tmp_path):
    path = write_video(tmp_path / "a.mp4", noisy(48), **CODECS["h264.mp4"])
    whole = decode(path).frames_FHWC
    scratch(path, "half zero")
    selection = Selection(12, 96, 128, fps=12, windows=None)
    video = open_video(path)
    before, damaged, after, last = windows(video, selection)
    np.testing.assert_array_equal(cut(video, before, selection), whole[:12])
    with pytest.raises(UnreadableVideo, match=r"damaged at 1\.\d\d s"):
        cut(video, damaged, selection)
    for window, frames in ((after, whole[24:36]), (last, whole[36:48])):
        np.testing.assert_array_equal(cut(video, window, selection), frames)


# --- bombs -----------------------------------------------------------------------------------------------------


def test_a_giant_picture_is_refused_by_its_header(tmp_path, monkeypatch):
    """Nothing of it is decoded, not even by FFmpeg's own look at the streams."""
    for name, codec, pixels in (("a.mp4", "libx264", "yuv420p"), ("a.mkv", "ffv1", "yuv420p")):
        path = write_video(tmp_path / name, np.zeros((2, 16, 9000, 3), np.uint8), codec=codec, pixels=pixels)
        monkeypatch.setattr("datasets.video.avvideo.decoded", lambda *_, **__: pytest.fail("decoded"))
        with pytest.raises(UnreadableVideo, match="9000x16"):
            open_video(path)
        monkeypatch.undo()


def test_more_pixels_than_a_clip_may_cost_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", moving_picture(60, 48, 64), fps=60)
    monkeypatch.setattr("datasets.video.avvideo.MAX_PIXELS", 30 * 48 * 64)
    video = open_video(path)
    assert windows(video, Selection(4, 48, 64, fps=12))  # 15 frames of the source
    with pytest.raises(UnreadableVideo, match=r"needs \d\d frames of 64x48"):
        windows(video, Selection(8, 48, 64, fps=12))


def test_an_animation_with_more_pixels_than_it_may_have_is_refused_by_its_header(make_video, monkeypatch):
    path = make_video("a.gif", num_frames=9, height=60, width=80)
    assert MAX_ANIMATION_PIXELS < 200 * 8192 * 8192
    monkeypatch.setattr("datasets.video.animation.MAX_ANIMATION_PIXELS", 8 * 60 * 80)
    monkeypatch.setattr("PIL.GifImagePlugin.GifImageFile.load", lambda _: pytest.fail("decoded"))
    with pytest.raises(UnreadableVideo, match="needs 9 frames of 80x60"):
        open_video(path)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_a_clip_that_takes_too_long_is_given_up(make_video, monkeypatch, name):
    path = make_video(name)
    monkeypatch.setattr(datasets.video.videofile, "MAX_SECONDS", -1.0)
    with pytest.raises(UnreadableVideo, match="takes more than"):
        list(open_video(path).frames([0]))
