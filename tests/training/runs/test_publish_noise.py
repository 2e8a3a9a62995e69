"""The noise prior of references, published beside the adapter when the settings ask for it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from clip_sets import sliding_clips, write_set

from datasets.clip_sets import inverted
from datasets.clip_sets.clips import read_clips
from datasets.clip_sets.latents import LatentCache, prepare
from infra.errors import UserError
from infra.storage import open_storage
from models.adapters.noise_prior import REFERENCES, read_noise
from models.adapters.versions import noise_file
from models.foundations.base import Bucket
from training.config import fixed_settings, make_config
from training.runs import samples
from training.runs.publish import publish_noise
from training.runs.samples import Rendering

BUCKET = Bucket(5, 32, 32)
SIZE = {"frames": 5, "height": 32, "width": 32}


@pytest.fixture
def data(tmp_path):
    return write_set(tmp_path / "clips", *sliding_clips("slide", count=REFERENCES + 1))


@pytest.fixture
def clips(data, house_foundation):
    return prepare(read_clips(data), house_foundation, BUCKET, LatentCache(open_storage(data)))


def test_the_noise_of_the_first_references_is_written_at_the_size_of_the_training(
    data, clips, house_foundation, tmp_path
):
    config = make_config({**SIZE, "noise_prior": True})
    asked = []

    def invert(clip):
        asked.append(clip)
        return clip.latents_CFHW / 2

    publish_noise(tmp_path, config, house_foundation, clips, data, invert)
    stored = read_noise(tmp_path / noise_file(BUCKET), house_foundation)
    expected = torch.stack([clip.latents_CFHW / 2 for clip in clips[:REFERENCES]]).half()
    assert torch.equal(stored.noise_NCfhw, expected)
    publish_noise(tmp_path, config, house_foundation, clips, data, invert)
    assert len(asked) == REFERENCES, "it is cached beside the clips"


def test_nothing_is_inverted_or_written_unless_it_is_asked_for(data, clips, house_foundation, tmp_path):
    folder = tmp_path / "version"
    folder.mkdir()
    publish_noise(folder, make_config(SIZE), house_foundation, clips, data, lambda _: pytest.fail("inverted"))
    assert list(folder.iterdir()) == []


def test_noise_that_is_not_finite_is_not_published(data, clips, house_foundation, tmp_path):
    config = make_config({**SIZE, "noise_prior": True})
    with pytest.raises(UserError, match="NaN or infinite"):
        publish_noise(
            tmp_path, config, house_foundation, clips, data, lambda clip: clip.latents_CFHW * float("inf")
        )


def test_the_setting_is_part_of_what_is_published_and_leaves_earlier_hashes_as_they_were():
    assert "noise_prior" not in fixed_settings(make_config({}))
    assert fixed_settings(make_config({"noise_prior": True}))["noise_prior"] is True
    with pytest.raises(UserError, match="noise_prior needs the whole model in one process, and zero 3"):
        make_config({"noise_prior": True, "zero": 3, "workers": 2})


@pytest.fixture
def rendering(house_foundation, monkeypatch):
    monkeypatch.setattr(samples, "invert_clip", lambda foundation, clip: clip.latents_CFHW + 1)
    config = make_config({**SIZE, "noise_prior": True})
    task = SimpleNamespace(config=config, concept="slide", foundation="tiny-random:wan")
    return Rendering(task, None, house_foundation, ["a"], "run", use_gpu=False)


def test_a_run_inverts_where_it_renders_its_last_samples(rendering, clips, monkeypatch):
    latents = clips[0].latents_CFHW
    assert torch.equal(rendering.invert(clips[0]), latents + 1)
    monkeypatch.setattr(rendering, "use_gpu", True)  # this process has none: an actor on the cluster renders
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    remote = SimpleNamespace(remote=lambda given: ("reference", given))
    rendering.actor = SimpleNamespace(invert=remote)
    monkeypatch.setattr("ray.get", lambda reference: reference[1].latents_CFHW + 2)
    assert torch.equal(rendering.invert(clips[0]), latents + 2)


def test_a_part_of_a_clip_has_its_own_noise(clips):
    other = replace(clips[0], frames_id="1,2,3,4,5")
    keys = {inverted.noise_key(clip, "f" * 64, "float32", BUCKET) for clip in (clips[0], other)}
    assert len(keys) == 2
