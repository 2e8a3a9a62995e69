"""A clip is inverted once for a (clip, foundation, size): its noise lies beside its latents."""

import pytest
import torch
from sample_videos import moving_picture

from datasets.clip_sets import inverted
from datasets.clip_sets.clips import make_clip
from datasets.clip_sets.inverted import inverted_noise, noise_of_clip
from datasets.clip_sets.latents import LatentCache, clip_key, prepare
from datasets.clip_sets.parts import Pace
from infra.errors import ConceptError, InvalidInput
from infra.storage import open_storage
from models.foundations.base import Bucket
from models.inversion import invert
from models.load import load_foundation

BUCKET = Bucket(5, 32, 32)


@pytest.fixture(scope="module")
def foundation():
    return load_foundation("tiny-random:wan", device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def clip():
    return made()


def made(frames=12, side=32, fps=8):
    return make_clip(
        concept="slide",
        caption="a texture slides",
        frames_FHWC=moving_picture(frames, side, side, seed=1),
        fps=fps,
        source_uri="left.mp4",
        source_sha256="1",
    )


@pytest.fixture
def cache(tmp_path):
    return LatentCache(open_storage(tmp_path))


@pytest.fixture
def few(monkeypatch):
    """Two steps are enough here."""
    monkeypatch.setattr(inverted, "STEPS", 2)
    calls = []

    def fast(foundation, latents, text, **options):
        calls.append(latents)
        return invert(foundation, latents, text, steps=2, iterations=1, **options)

    monkeypatch.setattr(inverted, "invert", fast)
    return calls


def test_the_noise_of_a_clip_is_that_of_its_first_frames_and_is_made_once(foundation, clip, cache, few):
    told = []
    noise = noise_of_clip(clip, foundation, BUCKET, cache, lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]
    first = prepare([clip], foundation, BUCKET, cache, pace=Pace(8, windows=1))[0]
    torch.testing.assert_close(noise, invert(foundation, first.latents_CFHW, steps=2, iterations=1))
    assert torch.equal(noise_of_clip(clip, foundation, BUCKET, cache), noise)
    assert len(few) == 1, "it was inverted again"


def test_each_part_size_and_number_of_steps_has_its_own_noise(foundation, clip, cache, few, monkeypatch):
    parts = prepare([clip], foundation, BUCKET, cache, pace=Pace(8, windows=2))
    noises = [inverted_noise(part, foundation, BUCKET, cache) for part in parts]
    assert len(noises) == 2
    assert not torch.equal(*noises)
    monkeypatch.setattr(inverted, "STEPS", 3)
    inverted_noise(parts[0], foundation, BUCKET, cache)
    noise_of_clip(clip, foundation, Bucket(9, 32, 32), cache)
    assert len(few) == 4
    keys = {key for key in cache.keys(foundation.fingerprint) if "/noise/" in key}
    assert len(keys) == 4
    assert clip_key(clip.sha256, foundation.fingerprint, "float32", BUCKET) in cache.keys(
        foundation.fingerprint
    )


def test_damaged_noise_is_made_again(foundation, clip, cache, few):
    noise = noise_of_clip(clip, foundation, BUCKET, cache)
    (key,) = (key for key in cache.keys(foundation.fingerprint) if "/noise/" in key)
    cache.storage.put(key, cache.storage.get(key)[:-3])
    assert torch.equal(noise_of_clip(clip, foundation, BUCKET, cache), noise)
    assert len(few) == 2


def test_noise_can_be_made_elsewhere(foundation, clip, cache, few):
    (part,) = prepare([clip], foundation, BUCKET, cache, pace=Pace(8, windows=1))
    noise = inverted_noise(part, foundation, BUCKET, cache, lambda clip: clip.latents_CFHW + 1)
    assert torch.equal(noise, part.latents_CFHW + 1)
    assert few == []


def test_a_clip_that_is_too_short_small_or_slow_is_refused(foundation, cache):
    for clip, error in (
        (made(frames=4), ConceptError),
        (made(side=16), ConceptError),
        (made(fps=4), InvalidInput),
    ):
        with pytest.raises(error, match=r"clip [0-9a-f]{12} of left.mp4"):
            noise_of_clip(clip, foundation, BUCKET, cache)
