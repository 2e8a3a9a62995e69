"""docs/cluster.md names commands, options and files that there are."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from commands import COMMANDS, parse

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "cluster.md").read_text()
BLOCKS = [block.replace("\\\n", " ") for block in re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)]


def commands():
    """Each `motiondirector ...` of the guide's blocks, without comments and what follows it in a pipeline."""
    for block in BLOCKS:
        for line in block.splitlines():
            for found in re.findall(r"motiondirector (?:[a-z-]+ )[^#|&;']*", line):
                if (
                    "motiondirector " + found.split()[1] != "motiondirector ..."
                    and found.split()[1] in COMMANDS
                ):
                    yield found.strip()


def test_the_guide_has_commands():
    assert {command.split()[1] for command in commands()} >= {
        "doctor",
        "ingest",
        "train",
        "train-batch",
        "serve",
    }


@pytest.mark.parametrize("command", list(commands()))
def test_commands_are_parsed(command):
    parse(command)


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_are_bash(block):
    subprocess.run(["bash", "-n"], input=block, text=True, check=True)


def test_files_are_there():
    named = set(
        re.findall(
            r"\b((?:infra|tests|docs)/[\w./-]+\.(?:json|yaml|env|py|md)|ray_cluster\.yaml|infra/docker/Dockerfile)",
            GUIDE,
        )
    )
    assert len(named) >= 8
    assert {name for name in named if not (ROOT / name).is_file()} == set()
    overlays = set(re.findall(r"infra/kubernetes/overlays/\w+/\w+", GUIDE))
    assert all((ROOT / overlay / "kustomization.yaml").is_file() for overlay in overlays)


def test_numbers_are_those_of_the_cluster():
    nodes = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())["available_node_types"]
    for name in ("head", "gpu_spot"):
        assert f"`{nodes[name]['node_config']['InstanceType']}`" in GUIDE
    assert f"(at most {nodes['gpu_spot']['max_workers']})" in GUIDE
    assert f"(at most {nodes['gpu_on_demand']['max_workers']})" in GUIDE


def test_alerts_of_the_guide_are_all_the_alerts():
    rules = yaml.safe_load((ROOT / "infra" / "monitoring" / "rules.yaml").read_text())["groups"]
    alerts = {
        rule["alert"].removeprefix("MotionDirector")
        for group in rules
        for rule in group["rules"]
        if "alert" in rule
    }
    table = GUIDE[GUIDE.index("| alert |") : GUIDE.index("### Shut down")]
    assert {alert for alert in alerts if alert not in table} == set()
