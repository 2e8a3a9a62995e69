"""A file that is cut is known by its structure; one that is whole never looks cut."""

import io

import av
import numpy as np
import pytest
from odd_videos import cut_at, remux
from sample_videos import moving_picture, write_video

from datasets.video.containers import ends_early
from datasets.video.decode import UnreadableVideo, open_video

KINDS = {
    "a.mp4": {},
    "front.mp4": {"container": {"movflags": "+faststart"}},
    "fragments.mp4": {"container": {"movflags": "frag_keyframe+empty_moov"}, "options": {"g": "5"}},
    "a.mov": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "a.avi": {"codec": "mpeg4"},
    "a.mkv": {},
    "a.webm": {"codec": "libvpx", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "a.flv": {"codec": "flv"},
}


def stream_of(frames_FHWC: np.ndarray) -> bytes:
    """Matroska as a browser records it: written without ever going back, so no length is known."""

    class Pipe(io.RawIOBase):
        data = b""

        def writable(self):
            return True

        def write(self, chunk):
            self.data += bytes(chunk)
            return len(chunk)

    pipe = Pipe()
    with av.open(pipe, "w", format="matroska", options={"live": "1"}) as output:
        stream = output.add_stream("libx264", rate=12)
        stream.height, stream.width = frames_FHWC.shape[1:3]
        stream.codec_context.options = {"bf": "0"}
        for frame in frames_FHWC:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))))
        output.mux(stream.encode(None))
    return pipe.data


@pytest.mark.parametrize("name", KINDS)
def test_every_end_that_is_missing_is_missed(tmp_path, name):
    path = write_video(tmp_path / name, moving_picture(30, 48, 64), **KINDS[name])
    whole = path.read_bytes()
    assert not ends_early(path)
    assert not ends_early(whole)
    for missing in (30, 200, len(whole) // 3):
        assert ends_early(whole[:-missing]), missing


def test_a_recording_without_lengths_is_whole_unless_its_last_part_is_not():
    whole = stream_of(moving_picture(30, 48, 64))
    assert not ends_early(whole)
    assert open_video(whole).num_frames == 30
    assert ends_early(whole[:-20])
    with pytest.raises(UnreadableVideo, match="truncated"):
        open_video(whole[:-20])


def test_a_trailer_behind_the_boxes_is_no_missing_end(tmp_path):
    """Cameras append their own data to an mp4: anything may stand there."""
    path = write_video(tmp_path / "a.mp4", moving_picture(12, 48, 64))
    path.write_bytes(path.read_bytes() + b"\x7f\xff\xff\xffSEFHe\x00\x00\x00" + bytes(range(64)))
    assert not ends_early(path)
    assert open_video(path).num_frames == 12


def test_a_cut_that_shows_fewer_frames_than_its_index_has_is_whole(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", moving_picture(40, 48, 64), options={"g": "40"})
    cut = remux(whole, tmp_path / "cut.mp4", cut_at(1.5))
    with av.open(str(cut)) as container:
        assert container.streams.video[0].frames == 40
    assert open_video(cut).num_frames == 22
