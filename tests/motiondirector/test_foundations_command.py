"""`motiondirector foundations`, and the page that is written from the code."""

import json
from pathlib import Path

from typer.testing import CliRunner

from models.family import FAMILIES
from motiondirector.api.foundations import page
from motiondirector.cli import build

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
