"""The library of concepts that ship with the project: complete, small, copied into a registry once, and usable at once."""

import json
import shutil
from pathlib import Path

import pytest

from datasets.video.decode import decode
from infra.errors import NotFound
from infra.registry import DEFAULT_REGISTRY, open_registry
from models.adapters.versions import read_own
from models.load import load_foundation
from motiondirector.api.generate import GenerateConfig, generate
from motiondirector.library.library import FOLDER, add_library, fill_if_new, library


def test_it_holds_at_least_twelve_measured_concepts_in_less_than_ten_megabytes():
    concepts = library()
    assert len(concepts) >= 12
    assert sum(concept.about.startswith("Camera:") for concept in concepts) >= 2
    for concept in concepts:
        assert concept.fidelity is not None, concept.name
        assert concept.fidelity >= 0.6, concept.name
        assert decode(concept.preview).frames_FHWC.shape == (8, 64, 64, 3)
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 10_000_000


def test_every_adapter_suits_the_embedded_model():
    foundation, shipped = load_foundation(device="cpu"), open_registry(FOLDER / "registry")
    for concept in library():
        [adapter] = read_own(shipped, concept.version, foundation).values()
        assert adapter.path == "temporal"


def test_copies_are_made_once_and_take_the_next_number_of_a_name(tmp_path):
    mine = open_registry(tmp_path / "mine")
    first, other = library()[:2]
    held = add_library(str(tmp_path / "mine"), [first.name])
    assert [version.ref for version in held] == [f"{first.name}@1"]
    folder = mine.pull(held[0], tmp_path / "pulled")
    mine.publish(other.name, folder, metadata={"mine": True})
    refs = [version.ref for version in add_library(str(tmp_path / "mine"))]
    assert f"{first.name}@1" in refs
    assert f"{other.name}@2" in refs
    assert [version.ref for version in add_library(str(tmp_path / "mine"))] == refs
    assert mine.resolve(f"{other.name}@1").metadata == {"mine": True}
    copied = mine.resolve(first.name)
    assert copied.metadata == {**first.version.metadata, "about": first.about}
    assert copied.metrics == first.version.metrics


def test_an_unknown_concept_is_refused_with_similar_names_and_nothing_is_copied(tmp_path):
    first = library()[0].name
    with pytest.raises(NotFound, match=f"no concept '{first}x'; choose from .*{first}"):
        add_library(str(tmp_path / "mine"), [first, f"{first}x"])
    assert not (tmp_path / "mine").exists()


def test_only_an_empty_default_registry_is_filled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fill_if_new(str(tmp_path / "other"), None) == 0
    assert fill_if_new(DEFAULT_REGISTRY, "tiny-random:unet3d") == 0
    assert not Path(DEFAULT_REGISTRY).exists()
    assert fill_if_new(DEFAULT_REGISTRY, None) == len(library())
    shutil.rmtree(Path(DEFAULT_REGISTRY) / "concepts" / library()[0].name)
    assert fill_if_new(DEFAULT_REGISTRY, None) == 0  # somebody's by now


@pytest.mark.parametrize(
    ("named", "filled"),
    [
        ({}, False),
        ({"prior_clip": __file__, "noise_prior": 0.5}, False),
        ({"concept": "arc"}, True),
        ({"lora": ["arc:scale=0.5"]}, True),
        ({"noise_prior": 0.5, "prior_concept": "arc"}, True),
    ],
)
def test_a_video_without_a_concept_copies_nothing(tmp_path, monkeypatch, named, filled):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("serving.local.generate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate("a green heart", GenerateConfig(**named))
    assert Path(DEFAULT_REGISTRY).exists() == filled


def test_a_first_video_needs_no_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = library()[0].name
    video = generate("a green heart", GenerateConfig(concept=name, steps=2, seed=1))
    assert video.used == f"{name}@1"
    assert video.frames_FHWC.shape == (8, 64, 64, 3)


def test_the_command_lists_adds_and_shows(run, tmp_path):
    code, told, _ = run("library", "--json")
    assert code == 0
    names = [one["name"] for one in json.loads(told)]
    assert names == [concept.name for concept in library()]
    code, told, _ = run("library")
    assert code == 0
    assert all(name in told for name in names)
    code, told, _ = run("library", "add", names[0], "--registry", tmp_path / "mine")
    assert (code, told.split(": ")[-1].strip()) == (0, f"{names[0]}@1")
    code, told, _ = run("library", "page", "-o", tmp_path / "page.html")
    assert code == 0
    assert (tmp_path / "page.html").read_text().count("data:image/webp") == len(names)
