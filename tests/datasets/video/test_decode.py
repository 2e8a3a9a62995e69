"""Every decoder gives the same frames of the same file; what is no video is refused in a sentence."""

import numpy as np
import pytest
from sample_videos import moving_picture, turn, write_sound, write_video

from datasets.video.decode import UnreadableVideo, decode, open_video
from datasets.video.writing import encode_mp4

# name, writer's arguments, who decodes it
ORDINARY = [
    ("h264.mp4", {"codec": "libx264", "fps": 30, "options": {"bf": "3", "g": "12"}}, "decord"),
    ("h264_444.mkv", {"codec": "libx264", "pixels": "yuv444p"}, "decord"),
    ("hevc.mov", {"codec": "libx265", "options": {"x265-params": "log-level=none"}}, "decord"),
    ("mpeg4.mp4", {"codec": "mpeg4", "fps": 25}, "decord"),
    ("mpeg4.avi", {"codec": "mpeg4", "fps": 15}, "pyav"),
    ("mjpeg.avi", {"codec": "mjpeg", "pixels": "yuvj420p"}, "pyav"),
    ("mjpeg.mov", {"codec": "mjpeg", "pixels": "yuvj420p"}, "decord"),
    ("vp9.webm", {"codec": "libvpx-vp9", "fps": 24}, "decord"),
    ("vp8.webm", {"codec": "libvpx", "fps": 24}, "decord"),
    ("av1.webm", {"codec": "libsvtav1"}, "pyav"),
    ("ten_bit.mp4", {"codec": "libx264", "pixels": "yuv420p10le"}, "pyav"),
    ("prores.mov", {"codec": "prores_ks", "pixels": "yuv422p10le"}, "pyav"),
]


@pytest.mark.parametrize(("name", "how", "decoder"), ORDINARY, ids=[name for name, *_ in ORDINARY])
def test_ordinary_files_decode_to_what_was_written(make_video, name, how, decoder):
    video = decode(make_video(name, num_frames=15, height=144, width=176, **how))
    assert video.decoder == decoder
    assert video.fps == pytest.approx(how.get("fps", 12), rel=0.01)
    written = moving_picture(15, 144, 176)
    assert video.frames_FHWC.shape == written.shape
    assert np.abs(video.frames_FHWC.astype(float) - written).mean() < 12
    # in the right order: each frame is nearest to its own original
    for i in (0, 7, 14):
        errors = [np.abs(video.frames_FHWC[i].astype(float) - other).mean() for other in written]
        assert int(np.argmin(errors)) == i


@pytest.mark.parametrize("name", [name for name, _, decoder in ORDINARY if decoder == "decord"])
def test_decord_and_pyav_give_the_same_pixels(make_video, name):
    how = next(how for other, how, _ in ORDINARY if other == name)
    path = make_video(name, num_frames=15, height=144, width=176, **how)
    ours, theirs = decode(path), decode(path, decoder="pyav")
    assert (ours.decoder, theirs.decoder) == ("decord", "pyav")
    np.testing.assert_array_equal(ours.frames_FHWC, theirs.frames_FHWC)
    np.testing.assert_array_equal(ours.times_F, theirs.times_F)


def test_single_frames_out_of_a_long_video_are_the_same_from_both(make_video):
    """decord seeks to a key frame, PyAV decodes from the start."""
    path = make_video("long.mp4", num_frames=130, fps=25, options={"g": "40", "bf": "2"})
    picks = [3, 3, 41, 77, 78, 128]
    ours = list(open_video(path).frames(picks))
    theirs = list(open_video(path, decoder="pyav").frames(picks))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_phone_video_stands_upright_from_both_decoders(make_video, degrees):
    path = make_video("phone.mp4", num_frames=6, height=96, width=160)
    lying = decode(path).frames_FHWC
    turn(path, degrees)
    upright = decode(path, decoder="pyav")
    quarter_turns = {90: -1, 180: 2, 270: 1}[degrees]  # 90: the picture is turned clockwise
    np.testing.assert_array_equal(upright.frames_FHWC, np.rot90(lying, quarter_turns, axes=(1, 2)))
    np.testing.assert_array_equal(decode(path).frames_FHWC, upright.frames_FHWC)
    video = open_video(path)
    assert (video.height, video.width) == upright.frames_FHWC.shape[1:3]


@pytest.mark.parametrize(("codec", "name"), [("mpeg4", "odd.mp4"), ("libvpx-vp9", "odd.webm")])
def test_odd_sides_of_subsampled_video_go_to_the_decoder_that_is_exact(make_video, codec, name):
    video = decode(make_video(name, num_frames=5, height=181, width=321, codec=codec))
    assert video.decoder == "pyav"
    assert video.frames_FHWC.shape == (5, 181, 321, 3)


@pytest.mark.parametrize("name", ["moving.gif", "moving.webp"])
def test_animations_decode_with_their_own_times(make_video, name):
    video = decode(make_video(name, num_frames=9, height=60, width=80, duration_ms=80))
    assert video.decoder == "pillow"
    assert video.fps == pytest.approx(12.5)
    written = moving_picture(9, 60, 80)
    assert video.frames_FHWC.shape == written.shape
    tolerance = 0 if name.endswith("webp") else 15  # a GIF has 256 colours
    assert np.abs(video.frames_FHWC.astype(float) - written).mean() <= tolerance


def test_bytes_and_files_are_the_same(make_video):
    path = make_video("a.mp4")
    np.testing.assert_array_equal(decode(path).frames_FHWC, decode(path.read_bytes()).frames_FHWC)


def refusal(source, **how) -> str:
    with pytest.raises(UnreadableVideo) as told:
        decode(source, **how)
    assert told.value.code == "unreadable_video"
    assert "\n" not in told.value.message
    return told.value.message


def test_what_is_no_video_is_refused_in_one_sentence(tmp_path, make_video):
    text = tmp_path / "notes.mp4"
    text.write_text("This is not a video. " * 100)
    assert "not a readable video" in refusal(text)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    assert "0 bytes" in refusal(empty)
    assert "does not exist" in refusal(tmp_path / "missing.mp4")
    assert "folder" in refusal(tmp_path)
    assert "only audio" in refusal(write_sound(tmp_path / "sound.mp4"))
    fake = tmp_path / "fake.gif"
    fake.write_bytes(b"GIF89a" + b"\0" * 40)
    assert "fake.gif" in refusal(fake)
    assert "the upload" in refusal(b"\x00" * 4096, name="the upload")


CONTAINERS = {
    "index_at_the_end.mp4": {},
    "index_in_front.mp4": {"container": {"movflags": "+faststart"}},
    "fragmented.mp4": {"container": {"movflags": "frag_keyframe+empty_moov"}, "options": {"g": "5"}},
    "camera.mov": {},
    "old.avi": {"codec": "mpeg4"},
    "disc.mkv": {},
    "web.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_truncated_file_is_refused_wherever_it_was_cut(tmp_path, name):
    frames = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), dtype=np.uint8)
    path = write_video(tmp_path / name, frames, **CONTAINERS[name])
    assert decode(path).frames_FHWC.shape == frames.shape
    whole = path.read_bytes()
    for keep in (0.8, 0.5, 0.02):
        path.write_bytes(whole[: int(len(whole) * keep)])
        refusal(path)


def test_a_video_shorter_than_its_sound_is_whole(tmp_path):
    for name in ("a.mp4", "a.mkv"):
        path = write_video(tmp_path / name, moving_picture(12, 64, 64), sound_seconds=3.0)
        assert decode(path).frames_FHWC.shape == (12, 64, 64, 3)


def test_frames_of_uneven_length_keep_their_times(tmp_path):
    """A screen recording: the picture stands for a second, then moves."""
    ticks = [0, 1, 2, 14, 15, 16, 17, 18]
    path = write_video(tmp_path / "uneven.mp4", moving_picture(8, 64, 64), fps=12, ticks=ticks)
    for decoder in (None, "pyav"):
        video = open_video(path, decoder=decoder)
        np.testing.assert_allclose(video.times_F, np.array(ticks) / 12, atol=1e-3)


def test_a_truncated_animation_is_refused(make_video):
    for name in ("cut.gif", "cut.webp"):
        path = make_video(name, num_frames=9, height=120, width=160)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        refusal(path)


def test_sides_above_8k_are_refused_before_any_memory_is_taken(tmp_path):
    path = write_video(tmp_path / "huge.mkv", np.zeros((1, 16, 9000, 3), np.uint8), codec="ffv1")
    assert "9000x16" in refusal(path)


def test_decoding_whole_is_bounded(monkeypatch, make_video):
    monkeypatch.setattr("datasets.video.decode.MAX_DECODED_BYTES", 1_000_000)
    assert "GiB" in refusal(make_video("a.mp4"))
    assert len(list(open_video(make_video("b.mp4")).frames([0, 5]))) == 2


def test_our_own_mp4_is_read_by_decord():
    assert open_video(encode_mp4(moving_picture(8, 64, 64), 8)).decoder == "decord"
