"""A family is known once it is registered."""

import json

import pytest

from models.families.wan import WanSpec
from models.family import FAMILIES, register
from models.locating import family_of, locate
from models.tiny import RECIPES


def test_every_family_has_a_tiny_random_checkpoint():
    made = {family_of(locate(f"tiny-random:{name}"), name).name for name in RECIPES}
    assert made == {family.name for family in FAMILIES.values()}


@pytest.fixture
def other():
    @register
    class Other(WanSpec):
        name = "other"
        pipeline_class = "OtherPipeline"

    yield
    del FAMILIES["OtherPipeline"]


@pytest.mark.usefixtures("other")
def test_a_registered_family_serves_its_pipelines(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "OtherPipeline"}))
    assert family_of(tmp_path, "this").name == "other"


def test_a_pipeline_class_has_one_family():
    with pytest.raises(AssertionError, match="WanPipeline has two families"):
        register(WanSpec)
