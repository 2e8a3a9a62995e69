"""Noise priors on an engine's disk: fetched by hash, checked when read, evicted like adapters."""

from __future__ import annotations

import pytest
import torch
from serving_helpers import random_noise

from infra.errors import InvalidInput, NotFound
from infra.storage.objects import put_object
from models.adapters.noise_prior import write_noise
from models.adapters.versions import noise_of
from models.load import load_foundation
from serving.adapters.files import AdapterFiles
from serving.schemas import AdapterUsed, NoisePriorUsed


def used(version, foundation, weight=0.5) -> NoisePriorUsed:
    entry = noise_of(version, foundation.defaults.bucket)
    return NoisePriorUsed(concept=version.concept, version=version.number, sha256=entry.sha256, weight=weight)


@pytest.fixture
def files(unet3d, registry, tmp_path) -> AdapterFiles:
    return AdapterFiles(registry, unet3d, tmp_path / "cache", pause=0.0)


def test_a_published_noise_prior_is_read_by_its_hash_also_after_its_version_was_removed(
    unet3d, registry, publish, files
):
    one = used(publish(unet3d, "orbit", references=2), unet3d)
    registry.remove("orbit@1")
    assert not files.has(one)
    stored = files.read_noise(one)
    assert files.has(one)
    assert stored.sha256 == one.sha256
    expected = torch.stack(random_noise(unet3d, 2)).half()
    assert torch.equal(stored.noise_NCfhw, expected)


def test_a_file_that_was_cut_on_disk_is_fetched_again(unet3d, publish, files, tmp_path):
    one = used(publish(unet3d, "orbit", references=1), unet3d)
    whole = files.read_noise(one).noise_NCfhw
    (file,) = (tmp_path / "cache").glob("*.safetensors")
    for damaged in (b"", file.read_bytes()[:-7]):
        file.write_bytes(damaged)
        assert torch.equal(files.read_noise(one).noise_NCfhw, whole)


def test_what_is_no_noise_prior_is_refused_and_does_not_stay(unet3d, registry, publish, files, tmp_path):
    version = publish(unet3d, "orbit", references=1)
    adapter = used(version, unet3d).model_copy(update={"sha256": version.adapter_sha256})
    with pytest.raises(InvalidInput, match=r"orbit@1: noise prior .* expected one, `noise`"):
        files.read_noise(adapter)
    noise = used(version, unet3d)
    as_adapter = AdapterUsed(concept="orbit", version=1, path="temporal", sha256=noise.sha256)
    with pytest.raises(InvalidInput, match=r"orbit@1: adapter .* unknown key 'noise'"):
        files.read(as_adapter)
    wan = load_foundation("tiny-random:wan")
    other = write_noise(tmp_path / "wan", wan, wan.defaults.bucket, random_noise(wan, 1))
    foreign = noise.model_copy(update={"sha256": put_object(registry.storage, other)})
    with pytest.raises(InvalidInput, match=r"orbit@1: noise prior .* made for foundation") as caught:
        files.read_noise(foreign)
    assert caught.value.code == "foundation_mismatch"
    assert files.resident() == []
    with pytest.raises(NotFound, match="orbit@1: its file 000000000000 is not in the registry"):
        files.read_noise(noise.model_copy(update={"sha256": "0" * 64}))
