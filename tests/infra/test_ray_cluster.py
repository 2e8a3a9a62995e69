"""`ray_cluster.yaml` is what Ray's launcher accepts, and starts what this project has."""

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cluster():
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


def test_it_keeps_to_rays_cluster_schema(cluster):
    validate_config(prepare_config(cluster))


def test_gpu_workers_scale_to_zero_and_spot_has_a_fallback(cluster):
    gpu = {name: node for name, node in cluster["available_node_types"].items() if name.startswith("gpu")}
    assert all(node["min_workers"] == 0 for node in gpu.values())
    markets = {"InstanceMarketOptions" in node["node_config"] for node in gpu.values()}
    assert markets == {True, False}
    assert all(0 < node["max_workers"] <= cluster["max_workers"] for node in gpu.values())


def test_no_credentials_are_copied(cluster):
    text = (ROOT / "ray_cluster.yaml").read_text().lower()
    assert "aws_secret" not in text
    assert "aws_access_key" not in text
    assert all(
        "IamInstanceProfile" in node["node_config"] for node in cluster["available_node_types"].values()
    )


def test_a_schema_mistake_would_be_seen(cluster):
    cluster["available_node_types"]["head"]["resources"] = "many"
    with pytest.raises(Exception, match="many"):
        validate_config(prepare_config(cluster))
