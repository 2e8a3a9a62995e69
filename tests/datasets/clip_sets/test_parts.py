"""What a model learns of clips that are longer, faster or slower than its own: never a piece of them as if it were all."""

from datetime import UTC, datetime

import numpy as np
import pytest

from datasets.clip_sets.clips import Clip, make_clip
from datasets.clip_sets.latents import LatentCache, pixels, prepare
from datasets.clip_sets.parts import Pace, all_parts, parts_of, remarks
from infra.errors import UserError
from infra.storage import open_storage
from models.foundations.base import Bucket
from models.load import load_foundation
from training.described import data_sha256

EIGHT = Bucket(8, 64, 64)


def clip(frames, fps, name="a"):
    return Clip(name, "x", "words", b"", fps, frames, 64, 64, name * 64, f"{name}.mp4", datetime.now(UTC))


def indices(frames, fps, pace, bucket=EIGHT):
    return [part.indices for part in parts_of(clip(frames, fps), bucket, pace)]


def test_a_clip_of_the_models_own_size_is_learned_whole():
    assert indices(8, 8, Pace(8)) == [tuple(range(8))]
    (part,) = parts_of(clip(8, 8), EIGHT, Pace(8))
    assert part.frames_id == ""
    assert part.seconds == (0.0, 1.0)
    assert remarks([part]) == []
    assert data_sha256([part]) == data_sha256([part.clip])  # what was trained before there were parts


def test_72_frames_at_24_fps_are_three_windows_of_a_second_each():
    found = indices(72, 24, Pace(8))
    assert found == [tuple(range(start, start + 24, 3)) for start in (0, 24, 48)]
    parts = parts_of(clip(72, 24), EIGHT, Pace(8))
    assert [part.seconds for part in parts] == [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]
    assert remarks(parts) == [
        "clip a of a.mp4 lasts 3.00 s; training uses only 0.00-1.00, 1.00-2.00, 2.00-3.00 s, 3 windows"
    ]
    assert len({part.frames_id for part in parts}) == 3


def test_windows_are_spread_over_a_clip_that_has_more_of_them_and_share_no_frame():
    found = indices(80, 8, Pace(8, windows=4))
    assert [(part[0], part[-1]) for part in found] == [(0, 7), (24, 31), (48, 55), (72, 79)]
    assert indices(80, 8, Pace(8, windows=1)) == [tuple(range(8))]
    assert len(indices(23, 8, Pace(8))) == 2
    assert "lasts 1.88 s; training uses only 0.00-1.00 s" in remarks(parts_of(clip(15, 8), EIGHT, Pace(8)))[0]


@pytest.mark.parametrize(("own", "fps"), [(23.976, 24), (30, 8), (25, 8), (10, 8)])
def test_frames_are_those_nearest_to_the_models_moments(own, fps):
    for part in indices(200, own, Pace(fps)):
        moments = np.array(part) / own
        expected = moments[0] + np.arange(8) / fps
        assert np.abs(moments - expected).max() <= 1.01 / own
        assert len(set(part)) == 8


def test_as_they_are_is_frame_after_frame():
    assert indices(30, 24, Pace(0, windows=2)) == [tuple(range(8)), tuple(range(22, 30))]
    assert indices(8, 4, Pace(0)) == [tuple(range(8))]


@pytest.mark.parametrize(
    ("frames", "fps", "code", "says"),
    [
        (16, 24, "clip_too_small", "lasts 0.67 s, which is 6 frames at 8 fps, but training needs 8"),
        (7, 8, "clip_too_small", "is 7x64x64 (frames, height, width), smaller than 8x64x64"),
        (16, 4, "clip_too_slow", "has 4 fps, but training uses 8: its motion would be 2 times too fast"),
    ],
)
def test_a_clip_that_does_not_suffice_is_refused(frames, fps, code, says):
    with pytest.raises(UserError) as refused:
        parts_of(clip(frames, fps), EIGHT, Pace(8))
    assert refused.value.code == code
    assert says in refused.value.message


def test_parts_reach_training_as_clips_of_their_own_and_are_found_again(tmp_path, monkeypatch):
    frames = np.stack([np.full((64, 64, 3), 40 + 3 * i, np.uint8) for i in range(48)])
    made = make_clip(
        concept="x", caption="it brightens", frames_FHWC=frames, fps=24, source_uri="a.mp4", source_sha256="a"
    )
    foundation, bucket = load_foundation("tiny-random:unet3d", device="cpu"), Bucket(4, 64, 64)
    cache = LatentCache(open_storage(tmp_path))
    found = prepare([made], foundation, bucket, cache, pace=Pace(8, windows=3))
    parts = all_parts([made], bucket, Pace(8, windows=3))
    assert [one.frames_id for one in found] == [part.frames_id for part in parts]
    assert data_sha256(found) == data_sha256(parts) != data_sha256([made])
    for part, one in zip(parts, found, strict=True):
        shown = pixels(part, bucket)
        assert np.abs(shown.mean((1, 2, 3)) - (40 + 3 * np.array(part.indices))).max() < 3
        assert tuple(one.latents_CFHW.shape) == foundation.latent_shape(bucket)
    assert not found[0].latents_CFHW.equal(found[2].latents_CFHW)
    monkeypatch.setattr(foundation, "encode_both", None)  # all is in the cache
    again = prepare([made], foundation, bucket, cache, pace=Pace(8, windows=3))
    assert all(a.latents_CFHW.equal(b.latents_CFHW) for a, b in zip(found, again, strict=True))
