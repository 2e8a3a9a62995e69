"""What a version is used with: all that it was trained to be used with, decided in one place."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from sample_adapters import plain_adapter

from infra.errors import UserError
from infra.registry import ADAPTER_FILE, open_registry
from models.adapters import versions
from models.adapters.file import save_adapter
from models.adapters.versions import (
    ADAPTER_FILES,
    check_folded,
    first_config,
    gives,
    own_paths,
    own_steps,
    read_own,
)
from models.load import load_foundation


@pytest.fixture(scope="module")
def foundation():
    return load_foundation("tiny-random:unet3d", device="cpu", parts=("denoiser",))


@pytest.fixture
def registry(tmp_path):
    return open_registry(tmp_path / "registry")


@pytest.fixture
def pair(tmp_path, foundation):
    """A folder with a temporal and a spatial adapter of ones."""
    for path, file in ADAPTER_FILES.items():
        save_adapter((tmp_path / "pair" / file).parent, plain_adapter(foundation, path), foundation)
    return tmp_path / "pair"


@pytest.mark.parametrize(
    ("method", "paths"),
    [
        ("coupled", ("temporal", "spatial")),
        ("peft", ("temporal", "spatial")),
        (None, ("temporal", "spatial")),
        ("motiondirector", ("temporal",)),
        ("no-debias", ("temporal",)),
    ],
)
def test_a_version_is_used_with_what_its_method_trained_together(registry, pair, foundation, method, paths):
    version = registry.publish("a", pair, metadata={"method": method} if method else {})
    assert own_paths(version) == paths
    read = read_own(registry, version, foundation)
    assert tuple(read) == paths
    assert all(adapter.path == path for path, adapter in read.items())
    assert gives(version) == ("motion", "appearance")
    alone = replace(version, files={ADAPTER_FILE: version.files[ADAPTER_FILE]})
    assert (own_paths(alone), gives(alone)) == (("temporal",), ("motion",))


@pytest.mark.parametrize("method", ["appearance", "peft", None, "motiondirector"])
def test_an_appearance_alone_is_used(registry, pair, foundation, method):
    (pair / ADAPTER_FILE).unlink()
    (pair / "adapter_config.json").unlink()
    version = registry.publish("a", pair, metadata={"method": method} if method else {})
    assert (own_paths(version), gives(version)) == (("spatial",), ("appearance",))
    assert first_config(version) == "spatial/adapter_config.json"
    ((path, adapter),) = read_own(registry, version, foundation).items()
    assert (path, adapter.path) == ("spatial", "spatial")


def test_a_version_says_in_which_steps_its_motion_acts(registry, pair):
    def steps_of(**metadata):
        version = registry.publish("a", pair, metadata=metadata)
        return own_steps(version, "temporal"), own_steps(version, "spatial")

    assert steps_of(config={"acts_until": 0.5}) == ((0.0, 0.5), None)
    assert steps_of(config={}) == steps_of() == steps_of(config="x") == (None, None)
    for wrong in (0, 1.5, "0.5", True):
        with pytest.raises(UserError, match=r"a@\d has acts_until|acts_until .*expected a number above 0"):
            steps_of(config={"acts_until": wrong})


def test_settings_of_a_version_are_folded_in_where_they_are_seen_and_refused_where_not(
    registry, pair, foundation, monkeypatch
):
    """`Registry.publish` takes files as they are; a version from before `concepts publish` folded is such."""
    monkeypatch.setattr(versions, "_plain", set())
    plain = registry.publish("plain", pair, metadata={})
    for path in ADAPTER_FILES:
        check_folded(registry, plain, path)
    file = pair / "spatial" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "lora_alpha": 6}))
    version = registry.publish("scaled", pair, metadata={})
    read = read_own(registry, version, foundation)
    assert {float(b.max()) for _, b in read["spatial"].tensors.values()} == {3.0}
    assert {float(b.max()) for _, b in read["temporal"].tensors.values()} == {1.0}
    check_folded(registry, version, "temporal")
    for _ in range(2):
        with pytest.raises(UserError, match=r"scaled@1 .* not in its weights; publish it again") as caught:
            check_folded(registry, version, "spatial")
        assert caught.value.code == "adapter_not_folded"


def test_each_configuration_is_read_once(registry, pair, monkeypatch):
    monkeypatch.setattr(versions, "_plain", set())
    version = registry.publish("a", pair, metadata={})
    asked = []
    read = registry.read
    monkeypatch.setattr(registry, "read", lambda version, name: (asked.append(name), read(version, name))[1])
    for _ in range(3):
        check_folded(registry, version, "temporal")
    assert asked == ["adapter_config.json"]


def test_a_file_of_the_other_path_is_refused_by_name(registry, pair, foundation):
    (pair / "spatial" / ADAPTER_FILE).write_bytes((pair / ADAPTER_FILE).read_bytes())
    (pair / "spatial" / "adapter_config.json").write_bytes((pair / "adapter_config.json").read_bytes())
    version = registry.publish("a", pair, metadata={})
    with pytest.raises(UserError, match="a@1: the file of its spatial adapter holds a temporal adapter"):
        read_own(registry, version, foundation)
