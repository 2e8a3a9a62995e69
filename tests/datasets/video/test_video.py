"""mp4s repeat bit for bit and carry what made them; contact sheets show every video."""

import numpy as np
import pytest

from datasets.video.decode import decode
from datasets.video.writing import CRF_CLIP, contact_sheet, encode_mp4, read_metadata
from infra.errors import InvalidInput, UserError


@pytest.fixture
def frames(moving):
    return moving(12, 96, 128)


def test_the_same_frames_give_the_same_bytes_and_other_frames_do_not(frames):
    once, again = encode_mp4(frames, 8), encode_mp4(frames.copy(), 8)
    assert once == again
    assert encode_mp4(frames[::-1], 8) != once


def test_what_lies_in_freed_memory_changes_no_byte(moving):
    """x264's macroblock tree gave nearly as many files as encodings at these sizes."""
    other = encode_mp4(moving(30, 180, 320), 8)
    for shape in ((24, 192, 192), (12, 160, 240)):
        noise = np.random.default_rng(0).integers(0, 6, (*shape, 3), dtype=np.uint8)
        clip = moving(*shape, step=7) // 2 + noise
        files = set()
        for _ in range(6):
            decode(other)
            files.add(encode_mp4(clip, 8))
        assert len(files) == 1


def test_metadata_of_any_script_comes_back_from_the_container(frames):
    told = {"prompt": "ein Bär läuft, 熊", "adapter_sha256": "0" * 64, "seed": "7"}
    mp4 = encode_mp4(frames, 8, metadata=told)
    assert {key: read_metadata(mp4)[key] for key in told} == told
    assert encode_mp4(frames, 8, metadata=dict(reversed(told.items()))) == mp4


def test_frame_count_rate_and_size_survive(frames, tmp_path):
    for fps in (7, 12.5, 29.97, 30):
        encode_mp4(frames, fps, tmp_path / "deep" / "clip.mp4")
        video = decode(tmp_path / "deep" / "clip.mp4")
        assert video.frames_FHWC.shape == frames.shape
        assert video.fps == pytest.approx(fps, rel=1e-3)


def test_a_place_that_cannot_be_written_is_one_sentence_and_nothing_half_written(frames, tmp_path):
    (tmp_path / "clip.mp4").mkdir()
    with pytest.raises(UserError, match=r"clip\.mp4: Is a directory"):
        encode_mp4(frames, 8, tmp_path / "clip.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_nothing_is_lost_where_nothing_may_be_and_the_same_frames_are_the_same_file():
    rng = np.random.default_rng(0)
    for size in ((3, 16, 16), (5, 64, 96), (2, 34, 50)):
        noise = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        mp4 = encode_mp4(noise, 8, lossless=True)
        video = decode(mp4)
        assert np.array_equal(video.frames_FHWC, noise)
        assert video.fps == 8
        assert encode_mp4(noise, 8, lossless=True) == mp4
    still = np.repeat(noise[:1], 16, axis=0)
    assert len(encode_mp4(still, 8, lossless=True)) < 2 * len(encode_mp4(noise[:1], 8, lossless=True))


def test_an_ingested_clip_is_close_to_its_source(frames):
    """crf 14 keeps brightness to about one level; colour has half the resolution by format."""
    luma = np.array([0.299, 0.587, 0.114])
    kept = decode(encode_mp4(frames, 8, crf=CRF_CLIP)).frames_FHWC @ luma
    seen = decode(encode_mp4(frames, 8)).frames_FHWC @ luma
    assert np.abs(kept - frames @ luma).mean() < 1.5
    assert np.abs(kept - frames @ luma).mean() < np.abs(seen - frames @ luma).mean()
    flat = np.full((4, 64, 64, 3), (200, 40, 90), np.uint8)
    assert np.abs(decode(encode_mp4(flat, 8)).frames_FHWC.astype(int) - flat).max() <= 3


@pytest.mark.parametrize("shape", [(4, 63, 64, 3), (4, 64, 65, 3), (0, 64, 64, 3), (64, 64, 3)])
def test_what_cannot_be_an_mp4_is_refused(shape):
    with pytest.raises(InvalidInput):
        encode_mp4(np.zeros(shape, np.uint8), 8)
    with pytest.raises(UserError):
        encode_mp4(np.zeros((4, 64, 64, 3), np.float32), 8)
    with pytest.raises(UserError):
        encode_mp4(np.zeros((4, 64, 64, 3), np.uint8), 0)


def test_a_contact_sheet_has_a_strip_of_every_video():
    red, blue = np.zeros((9, 32, 64, 3), np.uint8), np.zeros((3, 64, 64, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    sheet = np.asarray(
        contact_sheet([("red", red), ("blue, of three frames", blue)], columns=4, cell_width=40)
    )
    is_red = (sheet == (255, 0, 0)).all(-1).sum()
    is_blue = (sheet == (0, 0, 255)).all(-1).sum()
    assert is_red == 4 * 40 * 20
    assert is_blue == 3 * 40 * 40
