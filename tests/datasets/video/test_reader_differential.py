"""At every moment the reader's picture is the one that FFmpeg decodes for it.

Files of many containers, codecs, frame structures and stamps, made by PyAV. Truth is an independent way: FFmpeg decodes
everything, without threads or strictness, and the picture of a moment is the last one whose stamp is not after it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
from odd_videos import cut_at, from_packet, hold_last, remux, with_stamp
from sample_videos import moving_picture, write_video

from datasets.video.decode import open_video

FRAMES, HEIGHT, WIDTH, FPS = 40, 48, 64, 20
X264 = {"preset": "ultrafast", "crf": "10"}
X265 = {"preset": "ultrafast"}
CODECS: dict[str, tuple[str, dict[str, str], dict]] = {
    "h264": ("libx264", {**X264, "bf": "0", "g": "8"}, {}),
    "h264 one key": ("libx264", {**X264, "bf": "0", "g": "250"}, {}),
    "h264 b": ("libx264", {"preset": "veryfast", "crf": "10", "bf": "3", "g": "12"}, {}),
    "h264 one group": ("libx264", {"preset": "veryfast", "crf": "10", "bf": "2", "g": "250"}, {}),
    "h264 open": (
        "libx264",
        {"preset": "veryfast", "crf": "10", "x264-params": "open-gop=1:keyint=10:bframes=3"},
        {},
    ),
    "h264 refresh": (
        "libx264",
        {**X264, "x264-params": "intra-refresh=1:keyint=10:bframes=0:ref=1"},
        {},
    ),
    "h264 10 bit": ("libx264", {**X264, "bf": "2"}, {"pixels": "yuv420p10le"}),
    "h264 444": ("libx264", {**X264, "bf": "2"}, {"pixels": "yuv444p"}),
    "hevc": ("libx265", {**X265, "x265-params": "log-level=none:keyint=10:open-gop=0"}, {}),
    "hevc open": ("libx265", {**X265, "x265-params": "log-level=none:keyint=10:bframes=3"}, {}),
    "mpeg4": ("mpeg4", {"g": "10", "q": "2"}, {}),
    "mpeg4 b": ("mpeg4", {"g": "10", "bf": "2", "q": "2"}, {}),
    "mpeg2 b": ("mpeg2video", {"g": "10", "bf": "2", "qmin": "1", "qmax": "4"}, {"fps": 25}),
    "mjpeg": ("mjpeg", {"qmin": "1", "qmax": "3"}, {"pixels": "yuvj420p"}),
    "vp8": ("libvpx", {"b": "1000k", "deadline": "realtime", "cpu-used": "8", "g": "12"}, {}),
    "vp8 hidden": ("libvpx", {"b": "300k", "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "4"}, {}),
    "vp9": ("libvpx-vp9", {"b": "1000k", "deadline": "realtime", "cpu-used": "8", "g": "12"}, {}),
    "vp9 hidden": (
        "libvpx-vp9",
        {"b": "300k", "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "5"},
        {},
    ),
    "av1": ("libsvtav1", {"preset": "12", "g": "12"}, {}),
    "ffv1": ("ffv1", {}, {}),
    "prores": ("prores_ks", {}, {"pixels": "yuv422p10le"}),
    "flv1": ("flv", {}, {}),
}
CONTAINERS = {
    "mp4": (
        "h264",
        "h264 b",
        "h264 one group",
        "h264 open",
        "h264 refresh",
        "h264 10 bit",
        "hevc",
        "hevc open",
    ),
    "mov": ("h264 b", "prores", "mjpeg", "mpeg4 b"),
    "mkv": ("h264 open", "h264 444", "hevc open", "mpeg2 b", "ffv1", "av1", "vp8 hidden"),
    "webm": ("vp8", "vp8 hidden", "vp9", "vp9 hidden"),
    "avi": ("mpeg4", "mpeg4 b", "mjpeg", "h264"),
    "ts": ("h264 b", "h264 refresh", "hevc open", "mpeg2 b"),
    "flv": ("h264 b", "flv1"),
}
UNEVEN = list(np.cumsum([1, 1, 4, 1, 2, 7, 1, 1, 3, 1] * 4))


def made(folder: Path, container: str, codec: str, ticks: list[int] | None = None) -> Path:
    name, options, more = CODECS[codec]
    path = folder / f"{codec.replace(' ', '_')}.{container}"
    return write_video(
        path,
        moving_picture(FRAMES, HEIGHT, WIDTH),
        codec=name,
        options=options,
        ticks=ticks,
        **{"fps": FPS} | more,
    )


def truth(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(seconds, pictures) of everything that FFmpeg decodes, in the order of the stamps."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        found: dict[int, np.ndarray] = {}
        for packet in container.demux(stream):
            if not packet.size and packet.dts is not None:  # a dropped frame of an AVI
                continue
            try:
                frames = stream.codec_context.decode(packet if packet.size else None)
            except av.error.InvalidDataError:  # before the first key frame
                continue
            for frame in frames:
                stamp = frame.dts if container.format.name == "avi" else frame.pts
                found.setdefault(
                    max(found, default=0) + 1 if stamp is None else stamp, frame.to_ndarray(format="rgb24")
                )
        stamps = sorted(found)
        return np.array([float((s - stamps[0]) * stream.time_base) for s in stamps]), np.stack(
            [found[s] for s in stamps]
        )


def check(path: Path, seed: int = 0) -> None:
    times_F, pictures = truth(path)
    video = open_video(path)
    random = np.random.default_rng(seed)
    moments = np.sort(random.uniform(0, times_F[-1], 12))
    # not within what containers round and cameras shake
    moments = moments[[np.abs(times_F - t).min() > 0.006 for t in moments]]
    moments = np.unique(np.concatenate([moments, times_F[:: max(1, len(times_F) // 6)]]))
    expected = np.searchsorted(times_F, moments + 0.001, side="right") - 1
    for t, e, got in zip(moments, expected, video.frames(video.shown(moments)), strict=True):
        errors = np.abs(pictures.astype(np.int16) - got).mean((1, 2, 3))
        assert errors[e] < 2, (
            f"at {t:.3f} s: off by {errors[e]:.1f}; it is the picture of {times_F[errors.argmin()]:.3f} s"
        )
    assert video.num_frames == len(times_F)
    np.testing.assert_allclose(video.times_F, times_F, atol=0.002)


@pytest.mark.parametrize(
    ("container", "codec"), [(c, codec) for c, codecs in CONTAINERS.items() for codec in codecs]
)
def test_the_picture_of_each_moment_is_the_one_that_ffmpeg_shows(tmp_path, container, codec):
    check(made(tmp_path, container, codec))


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("mp4", "h264 b"),
        ("mkv", "h264"),
        ("webm", "vp9"),
        ("mov", "mjpeg"),
        ("avi", "mpeg4"),
        ("flv", "h264 b"),
    ],
)
def test_uneven_times(tmp_path, container, codec):
    """A screen recording, a phone in the dark, an AVI with dropped frames."""
    check(made(tmp_path, container, codec, [int(t) for t in UNEVEN]))


@pytest.mark.parametrize("codec", ["h264 b", "h264 open", "hevc open", "mpeg4 b", "mpeg2 b"])
@pytest.mark.parametrize(("container", "seconds"), [("mp4", 0.7), ("mov", 1.15), ("mkv", 0.7)])
def test_cut_without_encoding_again(tmp_path, codec, container, seconds):
    """From the key frame before the cut on; in mp4 and mov an edit list hides what lies before."""
    whole = made(tmp_path, "mkv" if container == "mkv" else "mp4", codec)

    if container == "mkv":  # no edit list: from a key frame on
        keys = [n for n, p in enumerate(_packets(whole)) if p[1] and p[0] <= seconds]
        check(remux(whole, tmp_path / f"cut.{container}", from_packet(keys[-1])))
    else:
        check(remux(whole, tmp_path / f"cut.{container}", cut_at(seconds)))


def _packets(path: Path) -> list[tuple[float, bool]]:
    with av.open(str(path)) as container:
        return [(float(p.pts * p.time_base), p.is_keyframe) for p in container.demux(video=0) if p.size]


@pytest.mark.parametrize("codec", ["h264 b", "h264 open", "h264 refresh", "hevc open", "mpeg2 b"])
def test_a_recording_that_begins_in_the_middle_of_a_group(tmp_path, codec):
    whole = made(tmp_path, "ts", codec)
    data = whole.read_bytes()
    (tmp_path / "middle.ts").write_bytes(data[188 * (len(data) // 188 // 5) :])
    check(tmp_path / "middle.ts")


def test_pictures_that_stand_for_seconds_at_the_end(tmp_path):
    path = hold_last(tmp_path / "held.mp4", moving_picture(20, HEIGHT, WIDTH), 10, 3.0)
    check(path)
    video = open_video(path)
    assert video.duration == pytest.approx(4.9, abs=0.01)
    assert list(video.shown(np.array([1.9, 3.0, 4.8]))) == [19, 19, 19]


@pytest.mark.parametrize("stamp", [30_000, 0, 900, 1_600])
def test_one_wrong_stamp_costs_no_other_frame_its_time(tmp_path, stamp):
    path = made(tmp_path, "mkv", "h264 one key", [int(t) for t in UNEVEN])
    right, pictures = truth(path)
    video = open_video(with_stamp(path, 17, stamp))
    assert abs(right[17] * 1000 - stamp) > 300
    others = [i for i in range(FRAMES) if i != 17]
    np.testing.assert_allclose(video.times_F[others], right[others], atol=0.002)
    assert right[16] < video.times_F[17] < right[18]
    for picture, expected in zip(video.frames(range(FRAMES)), pictures, strict=True):
        assert np.abs(picture.astype(int) - expected).mean() < 2


def test_a_clock_that_starts_again_goes_on(tmp_path):
    """Two recordings in one file, joined byte by byte."""
    path = made(tmp_path, "mpg", "mpeg2 b")
    times_F, pictures = truth(path)
    path.write_bytes(path.read_bytes() * 2)
    video = open_video(path)
    assert video.num_frames == 2 * FRAMES
    step = times_F[1]
    np.testing.assert_allclose(video.times_F[:FRAMES], times_F, atol=0.002)
    np.testing.assert_allclose(video.times_F[FRAMES:], times_F[-1] + step + times_F, atol=0.06)
    (again,) = video.frames([FRAMES + 5])
    assert np.abs(again.astype(int) - pictures[5]).mean() < 2


@pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="no ffmpeg binary here; PyAV's FFmpeg is asked above"
)
@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "h264 b"), ("mkv", "h264 open"), ("webm", "vp8 hidden"), ("mov", "hevc open")],
)
def test_the_ffmpeg_command_shows_the_same(tmp_path, container, codec):
    """`-ss t -frames:v 1` after the input: everything is decoded, the first picture at or after t is written."""
    if codec == "hevc open":
        path = remux(made(tmp_path, "mp4", codec), tmp_path / f"cut.{container}", cut_at(0.7))
    else:
        path = made(tmp_path, container, codec)
    video = open_video(path)
    for i in (0, 7, 19, video.num_frames - 1):
        at = max(0.0, float(video.times_F[i]) - 0.004)
        command = ["ffmpeg", "-v", "error", "-i", str(path), "-ss", f"{at:.4f}", "-frames:v", "1"]
        command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        shown = subprocess.run(command, capture_output=True, check=True).stdout
        expected = np.frombuffer(shown, np.uint8).reshape(HEIGHT, WIDTH, 3)
        (got,) = video.frames([i])
        assert np.abs(got.astype(int) - expected).mean() < 2
