"""Latents are computed once for a (clip, foundation, bucket) and found by any later run."""

import logging

import pytest
import torch
from sample_videos import moving_picture

from datasets.clip_sets.clips import make_clip
from datasets.clip_sets.latents import REVISION, LatentCache, clip_key, cover, prepare, text_key
from infra.errors import UserError
from infra.storage import open_storage
from models.foundations.base import Bucket
from models.load import load_foundation

BUCKETS = {"tiny-random:unet3d": Bucket(4, 64, 64), "tiny-random:wan": Bucket(5, 64, 64)}


@pytest.fixture(scope="module", params=sorted(BUCKETS))
def foundation(request):
    model = load_foundation(request.param, device="cpu")
    model.test_bucket = BUCKETS[request.param]
    return model


@pytest.fixture(scope="module")
def clips():
    return [
        make_clip(
            concept="slide",
            caption=f"a texture slides {word}",
            frames_FHWC=moving_picture(6, 80, 96, seed=i),
            fps=8,
            source_uri=f"{word}.mp4",
            source_sha256=str(i),
        )
        for i, word in enumerate(["left", "right"])
    ]


@pytest.fixture
def deaf(foundation, monkeypatch):
    """The foundation, whose encoders must not be called."""

    def never(*_):
        raise AssertionError("an encoder was called though everything is cached")

    def make_deaf():
        for name in ("encode_video", "encode_frames", "encode_text"):
            monkeypatch.setattr(foundation, name, never)
        return foundation

    return make_deaf


def same(a, b):
    return all(
        torch.equal(getattr(x, name), getattr(y, name))
        for x, y in zip(a, b, strict=True)
        for name in ("latents_CFHW", "frame_latents_FC1HW", "text_LD", "empty_text_LD")
    )


def test_prepared_clips_are_what_the_encoders_give(foundation, clips, tmp_path):
    bucket = foundation.test_bucket
    first = prepare(clips, foundation, bucket, LatentCache(open_storage(tmp_path)))[0]
    assert tuple(first.latents_CFHW.shape) == foundation.latent_shape(bucket)
    channels, _, height, width = foundation.latent_shape(bucket)
    assert tuple(first.frame_latents_FC1HW.shape) == (bucket.frames, channels, 1, height, width)
    torch.testing.assert_close(first.text_LD, foundation.encode_text([clips[0].caption])[0].float())
    torch.testing.assert_close(first.empty_text_LD, foundation.encode_text([""])[0].float())
    assert (first.sha256, first.caption) == (clips[0].sha256, clips[0].caption)
    # frame 2, seen by the encoder as a video of one frame
    frame = cover(clips[0].frames_FHWC()[2], bucket.height, bucket.width)
    pixels = torch.tensor(frame).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
    torch.testing.assert_close(
        first.frame_latents_FC1HW[2], foundation.encode_video(pixels)[0], atol=1e-4, rtol=1e-4
    )


def test_a_later_run_finds_everything_and_calls_no_encoder(foundation, clips, tmp_path, deaf):
    bucket = foundation.test_bucket
    once = prepare(clips, foundation, bucket, LatentCache(open_storage(tmp_path)))
    again = prepare(clips, deaf(), bucket, LatentCache(open_storage(tmp_path)))
    assert same(once, again)


def test_the_cache_works_on_s3(foundation, clips, s3, tmp_path, deaf):
    storage = open_storage(f"{s3.uri}/latents-{tmp_path.name}-{foundation.family}")
    once = prepare(clips, foundation, foundation.test_bucket, LatentCache(storage))
    assert same(once, prepare(clips, deaf(), foundation.test_bucket, LatentCache(open_storage(storage.uri))))


def test_another_bucket_or_foundation_is_another_object(foundation, clips, monkeypatch):
    bucket = foundation.test_bucket
    keys = {
        clip_key(clips[0].sha256, foundation.fingerprint, "float32", bucket),
        clip_key(clips[1].sha256, foundation.fingerprint, "float32", bucket),
    }
    keys.add(clip_key(clips[0].sha256, foundation.fingerprint, "float32", Bucket(bucket.frames, 32, 64)))
    monkeypatch.setattr(foundation, "fingerprint", "another")
    keys.add(clip_key(clips[0].sha256, foundation.fingerprint, "float32", bucket))
    assert len(keys) == 4


@pytest.mark.parametrize("damage", ["truncated", "a bit flipped", "something else", "empty"])
def test_damaged_objects_are_computed_again_with_a_warning(foundation, clips, tmp_path, caplog, damage):
    bucket, cache = foundation.test_bucket, LatentCache(open_storage(tmp_path))
    once = prepare(clips[:1], foundation, bucket, cache)
    key = clip_key(clips[0].sha256, foundation.fingerprint, "float32", bucket)
    good = cache.storage.get(key)
    flipped = bytearray(good)
    flipped[-5] ^= 1
    bad = {"truncated": good[:-9], "a bit flipped": bytes(flipped), "something else": b"x" * 99, "empty": b""}
    cache.storage.put(key, bad[damage])
    with caplog.at_level(logging.WARNING):
        again = prepare(clips[:1], foundation, bucket, cache)
    assert same(once, again)
    assert "damaged" in caplog.text
    assert cache.storage.get(key) == good


def test_a_clip_smaller_than_the_bucket_is_refused(foundation, clips, tmp_path):
    cache, bucket = LatentCache(open_storage(tmp_path)), foundation.test_bucket
    for wrong in (Bucket(bucket.frames + 8, 64, 64), Bucket(bucket.frames, 128, 64)):
        with pytest.raises(UserError) as told:
            prepare(clips, foundation, wrong, cache)
        assert told.value.code == "clip_too_small"
    with pytest.raises(UserError):
        prepare(clips, foundation, Bucket(bucket.frames, 63, 64), cache)
    assert list(cache.storage.list()) == []


def test_what_an_earlier_revision_cached_is_not_served(foundation, clips, tmp_path, monkeypatch):
    """Such as 226 tokens of a Wan prompt: under the same fingerprint, but no longer what the encoder gives."""
    storage, (clip, *_) = open_storage(tmp_path), clips
    cache = LatentCache(storage)
    monkeypatch.setattr("datasets.clip_sets.latents.REVISION", REVISION - 1)
    true = foundation.encode_text([clip.caption])[0].float()
    LatentCache(storage).put(
        text_key(clip.caption, foundation.fingerprint, "float32"), {"text": torch.zeros_like(true)}
    )
    (prepared,) = prepare([clip], foundation, foundation.test_bucket, cache)
    torch.testing.assert_close(prepared.text_LD, true)
