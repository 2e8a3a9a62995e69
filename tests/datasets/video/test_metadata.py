"""What a file says about its pictures is obeyed: matrices, covers, alpha, fields, light; or refused in a sentence."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorTrc
from odd_videos import add_cover, set_matrix
from PIL import Image
from sample_videos import moving_picture, write_animation, write_sound, write_video

from datasets.clip_sets.select import Selection, cut, windows
from datasets.ingest.local import ingest
from datasets.ingest.sources import expand
from datasets.video.decode import UnreadableVideo, decode, open_video
from infra.storage import open_storage

HEIGHT, WIDTH = 48, 80


def lying(tmp_path: Path) -> tuple[Path, np.ndarray]:
    path = write_video(tmp_path / "a.mp4", moving_picture(4, HEIGHT, WIDTH))
    return path, decode(path).frames_FHWC


MATRICES = {
    "as it is": ((1, 0, 0, 1), lambda p: p),
    "mirrored": ((-1, 0, 0, 1), lambda p: p[:, :, ::-1]),
    "upside down, mirrored": ((1, 0, 0, -1), lambda p: p[:, ::-1]),
    "turned by 180": ((-1, 0, 0, -1), lambda p: np.rot90(p, 2, axes=(1, 2))),
    "clockwise": ((0, 1, -1, 0), lambda p: np.rot90(p, -1, axes=(1, 2))),
    "counterclockwise": ((0, -1, 1, 0), lambda p: np.rot90(p, 1, axes=(1, 2))),
    "transposed": ((0, 1, 1, 0), lambda p: p.swapaxes(1, 2)),
    "transposed about the other diagonal": ((0, -1, -1, 0), lambda p: p[:, ::-1, ::-1].swapaxes(1, 2)),
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("decoder", [None, "pyav"])
def test_a_display_matrix_turns_and_mirrors(tmp_path, name, decoder):
    path, pictures = lying(tmp_path)
    matrix, expected = MATRICES[name]
    video = decode(set_matrix(path, *matrix), decoder=decoder)
    np.testing.assert_array_equal(video.frames_FHWC, expected(pictures))
    assert (open_video(path).height, open_video(path).width) == video.frames_FHWC.shape[1:3]


@pytest.mark.parametrize(
    "matrix", [(0.7071, 0.7071, -0.7071, 0.7071), (1, 0.5, 0, 1)], ids=["45 degrees", "sheared"]
)
def test_other_matrices_are_refused(tmp_path, matrix):
    path, _ = lying(tmp_path)
    with pytest.raises(UnreadableVideo, match="quarter turns, or for shearing"):
        open_video(set_matrix(path, *matrix))


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (128, 128), "magenta").save(buffer, "JPEG")
    return buffer.getvalue()


def test_a_cover_picture_is_not_the_video(tmp_path):
    path, pictures = lying(tmp_path)
    shown = decode(add_cover(path, jpeg())).frames_FHWC
    assert shown.shape == pictures.shape
    assert np.abs(shown.astype(int) - pictures).max() <= 3  # rounding: decord does not draw it


def test_music_with_a_cover_is_no_video(tmp_path):
    path = write_sound(tmp_path / "song.mp4")
    with pytest.raises(UnreadableVideo, match="only audio and a cover picture"):
        open_video(add_cover(path, jpeg()))


def test_of_two_video_streams_the_larger_is_shown(tmp_path):
    """As by the ffmpeg command."""
    small, large = moving_picture(6, 48, 64, seed=1), moving_picture(6, 96, 128, seed=2)
    with av.open(str(tmp_path / "two.mkv"), "w") as output:
        streams = []
        for frames in (small, large):
            stream = output.add_stream("libx264", rate=12)
            stream.height, stream.width = frames.shape[1:3]
            streams.append(stream)
        for stream, frames in zip(streams, (small, large), strict=True):
            for frame in frames:
                output.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))))
            output.mux(stream.encode(None))
    shown = decode(tmp_path / "two.mkv").frames_FHWC
    assert np.abs(shown.astype(float) - large).mean() < 12


def write_transparent(path: Path, codec: str, pixels: str, options: dict[str, str]) -> np.ndarray:
    """A red box on transparent white, half of it half transparent; what it looks like on black."""
    picture = np.full((64, 96, 4), (255, 255, 255, 0), np.uint8)
    picture[16:48, 24:48] = (255, 0, 0, 255)
    picture[16:48, 48:72] = (255, 0, 0, 128)
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 96, pixels
        stream.codec_context.options = options
        for i in range(4):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format=pixels)
            frame.pts = i
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return (picture[..., :3] * (picture[..., 3:] / 255)).round()


ALPHA = {
    "vp9.webm": ("libvpx-vp9", "yuva420p", {"b": "2M"}),
    "vp8.webm": ("libvpx", "yuva420p", {"b": "2M", "auto-alt-ref": "0"}),
    "prores.mov": ("prores_ks", "yuva444p10le", {"profile": "4444"}),
    "qtrle.mov": ("qtrle", "argb", {}),
    "png.mov": ("png", "rgba", {}),
    "ffv1.mkv": ("ffv1", "bgra", {}),
}


@pytest.mark.parametrize("name", ALPHA)
def test_transparency_lies_on_black(tmp_path, name):
    expected = write_transparent(tmp_path / name, *ALPHA[name])
    video = open_video(tmp_path / name)
    for picture in video.frames([0, 3]):
        assert picture[4:12, 4:20].max() < 6  # transparent white is black
        assert np.abs(picture - expected).mean() < 8
    assert video.notes == ["transparent: shown on black"]


def test_what_is_opaque_is_said_to_be_nothing_else(tmp_path):
    path = write_video(tmp_path / "a.mov", moving_picture(4, 48, 64), codec="qtrle", pixels="argb")
    assert open_video(path).notes == []


def write_interlaced(path: Path) -> Path:
    """A bar that moves 8 pixels from field to field."""
    fields = np.zeros((40, 96, 128, 3), np.uint8)
    for i, field in enumerate(fields):
        field[16:80, 8 + 2 * i : 32 + 2 * i] = 235
    frames = fields[::2].copy()
    frames[:, 1::2] = fields[1::2, 1::2]
    options = {"x264-params": "tff=1", "crf": "4"}
    return write_video(path, frames, fps=10, pixels="yuv420p", options={**options, "flags": "+ilme+ildct"})


def comb(picture: np.ndarray) -> float:
    lines = picture[20:76].astype(float)
    return float(np.abs(lines[1:-1:2] - (lines[:-2:2] + lines[2::2]) / 2).mean())


def test_interlaced_video_is_deinterlaced_and_the_table_says_so(tmp_path):
    path = write_interlaced(tmp_path / "tv.mp4")
    with av.open(str(path)) as container:
        first = next(container.decode(video=0))
        assert first.interlaced_frame
        assert comb(first.to_ndarray(format="rgb24")) > 3
    video = open_video(path)
    assert max(comb(picture) for picture in video.frames(range(video.num_frames))) < 1
    report = ingest(
        expand([str(path)]),
        Selection(8, 64, 64, fps=8),
        open_storage(tmp_path / "set"),
        concept="c",
        caption="c",
    )
    assert [outcome.status for outcome in report.outcomes] == ["accepted"]
    assert "deinterlaced" in report.outcomes[0].warnings[0]


def write_hdr(path: Path, transfer: ColorTrc, levels: list[float]) -> Path:
    """Grey bars of these signal levels (0 to 1) in 10 bit BT.2020."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx265", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 32 * len(levels), "yuv420p10le"
        stream.codec_context.options = {"x265-params": "log-level=none", "preset": "ultrafast", "crf": "4"}
        context = stream.codec_context
        context.color_trc, context.color_primaries = transfer, ColorPrimaries.BT2020
        context.colorspace, context.color_range = 9, 1
        for i in range(3):
            frame = av.VideoFrame(stream.width, 64, "yuv420p10le")
            luma = np.repeat(np.round(64 + np.array(levels) * 876).astype(np.uint16), 32)
            for plane, row in zip(
                frame.planes, (luma, luma[::2] * 0 + 512, luma[::2] * 0 + 512), strict=True
            ):
                buffer = np.zeros((plane.height, plane.line_size // 2), np.uint16)
                buffer[:, : len(row)] = row
                plane.update(buffer.tobytes())
            frame.pts, frame.colorspace, frame.color_range = i, 9, 1
            frame.color_trc, frame.color_primaries = transfer, ColorPrimaries.BT2020
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


# signal of 100, 203 (the white of a page) and 1000 cd/m2
PQ, HLG = [0.508, 0.581, 0.752], [0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("transfer", "levels", "name"), [(ColorTrc.SMPTE2084, PQ, "PQ"), (ColorTrc.ARIB_STD_B67, HLG, "HLG")]
)
def test_hdr_is_tone_mapped_and_said_to_be(tmp_path, transfer, levels, name):
    video = open_video(write_hdr(tmp_path / "hdr.mp4", transfer, [0.0, *levels]))
    (picture,) = video.frames([1])
    black, low, page, bright = (int(picture[32, 32 * k + 16].mean()) for k in range(4))
    plain = [round(255 * level) for level in levels]
    assert black < 12
    assert 60 < low < page < bright <= 255
    assert abs(low - plain[0]) + abs(page - plain[1]) + abs(bright - plain[2]) > 8  # not the signal as it is
    assert np.ptp(picture.reshape(-1, 3), axis=1).max() < 8  # grey stays grey
    assert video.notes == [f"HDR ({name}): tone-mapped to SDR (BT.709)"]


def test_tags_that_are_not_utf8_do_not_matter(tmp_path):
    path, pictures = lying(tmp_path)
    data = path.read_bytes()
    assert data.count(b"Lavf") >= 1
    path.write_bytes(data.replace(b"Lavf", b"\xff\xfe\xff\xfe"))
    np.testing.assert_array_equal(decode(path).frames_FHWC, pictures)


def test_a_stream_whose_size_changes_is_read_and_never_enlarged(tmp_path):
    """A video call: the line gets worse, then better."""
    parts = [moving_picture(10, side, side * 4 // 3, seed=side) for side in (96, 48)]
    with av.open(str(tmp_path / "call.webm"), "w") as output:
        stream = None
        for number, frames in enumerate(parts):
            encoder = av.CodecContext.create("libvpx", "w")
            encoder.height, encoder.width, encoder.pix_fmt = *frames.shape[1:3], "yuv420p"
            encoder.framerate, encoder.time_base = Fraction(10), Fraction(1, 10)
            encoder.options = {"deadline": "realtime", "b": "1M"}
            if stream is None:
                stream = output.add_stream("libvpx", rate=10)
                stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
            for i, frame in enumerate(frames):
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame)).reformat(format="yuv420p")
                picture.pts = number * 10 + i
                for packet in encoder.encode(picture):
                    packet.stream = stream
                    output.mux(packet)
    video = open_video(tmp_path / "call.webm")
    shapes = [picture.shape[:2] for picture in video.frames(range(20))]
    assert shapes == [(96, 128)] * 10 + [(48, 64)] * 10
    assert decode(tmp_path / "call.webm").frames_FHWC.shape == (20, 96, 128, 3)
    selection = Selection(16, 64, 64, fps=8)
    with pytest.raises(Exception, match="too small: 64x48"):
        cut(video, windows(video, selection)[0], selection)


@pytest.mark.parametrize(("suffix", "first"), [("gif", 0), ("webp", 0), ("webp", 2), ("png", 0), ("png", 2)])
def test_a_transparent_animation_is_laid_on_black_with_a_note(tmp_path, suffix, first):
    """`first` is the first transparent frame."""
    images = []
    for number in range(4):
        picture = np.full((48, 64, 4), 255, np.uint8)
        picture[10:30, 8 * number : 8 * number + 16] = (255, 0, 0, 255)
        if number >= first:
            picture[32:, :, 3] = 0
        images.append(Image.fromarray(picture))
    path = tmp_path / f"a.{suffix}"
    exact = {"lossless": True, "exact": True} if suffix == "webp" else {}
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, loop=0, disposal=2, **exact)
    video = open_video(path)
    assert (video.decoder, video.notes) == ("pillow", ["transparent: shown on black"])
    shown = list(video.frames(range(4)))
    assert [int(picture[32:].max()) for picture in shown] == [0 if n >= first else 255 for n in range(4)]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_opaque_animation_has_no_note(tmp_path, suffix):
    assert open_video(write_animation(tmp_path / f"a.{suffix}", moving_picture(3, 32, 48))).notes == []
