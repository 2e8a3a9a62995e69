"""`motiondirector foundations`, and the page that is written from the code."""

import json
from pathlib import Path

from typer.testing import CliRunner

from models.family import FAMILIES
from models.scale.published import PUBLISHED
from motiondirector.api.foundations import page
from motiondirector.api.memory import memory
from motiondirector.cli import build

MEMORY_PAGE = Path(__file__).parents[2] / "docs" / "memory.md"
PAGE = Path(__file__).parents[2] / "docs" / "foundations.md"


def run(*arguments):
    result = CliRunner().invoke(build(), ["foundations", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_page_of_foundations_is_the_codes():
    assert PAGE.read_text() == page(), "write it again: motiondirector foundations page > docs/foundations.md"


def test_the_list_has_every_family():
    listed = json.loads(run("list", "--json"))
    assert {one["family"] for one in listed} == {family.name for family in FAMILIES.values()}
    assert "CogVideoX" in run("list")


def test_what_a_foundation_is_is_told_without_its_weights():
    facts = json.loads(run("show", "tiny-random:cogvideox-1.5", "--json"))
    assert facts["latent_shape"] == [8, 4, 4, 4]
    assert facts["targets"] == {"spatial": 12, "temporal": 12}
    assert facts["frames"] == "multiples of 8 plus 1"
    assert facts["schedulers"] == ["dpm++sde", "ddim"]
    told = run("show")
    assert "TextToVideoSDPipeline" in told
    assert "sprites" in told


def test_the_memory_of_a_model_is_told_without_its_weights():
    needs = json.loads(run("memory", "tiny-random:wan", "--size", "9x32x32", "--json"))
    assert needs["size"] == "9x32x32"
    assert set(needs["trains_on"]) == {"24", "48", "80", "141"}
    assert needs["trains_on"]["24"] == needs["serves_on"]["24"] == "as it is"
    assert "as it is" in run("memory", "tiny-random:wan")


def test_the_page_of_memory_has_every_published_model_with_its_numbers():
    text = MEMORY_PAGE.read_text()
    assert all(f"\n## {name}\n" in text for name in PUBLISHED), "write it again: foundations memory-page"
    needs = memory("published:zeroscope")
    for name, value in {**needs.weights, **needs.activations}.items():
        assert f": {name} | {value} |\n" in text.split("## zeroscope")[1]
