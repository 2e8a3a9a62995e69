"""docs/cluster.md names commands, options and files that there are."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import pytest
import yaml
from commands import COMMANDS, parse
from pydantic import SecretStr

from serving.keys import Scope, check_secret, read_api_keys

ROOT = Path(__file__).resolve().parents[3]
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


def assigned(text):
    return set(re.findall(r"(?:^|\s)([A-Za-z_]+)=", text, re.MULTILINE)) | set(
        re.findall(r"\bfor (\w+) in", text)
    )


def test_what_the_heads_commands_refer_to_is_set_there():
    """What was exported before `ray attach` was exported on another machine."""
    _, attach, rest = GUIDE.partition("ray attach ray_cluster.yaml")
    assert attach
    blocks = re.findall(r"```bash\n(.*?)```", "```bash\n" + rest[: rest.index("### Shut down")], re.DOTALL)
    known = assigned((ROOT / "infra" / "aws" / "node.env").read_text()) | {"HOME"}
    used = set()
    for block in blocks:
        known |= assigned(block)
        used |= set(re.findall(r"\$(\w+)", block))
    assert "BUCKET" in used
    assert used <= known


def test_choosing_bucket_and_region_reaches_the_head(tmp_path):
    """The guide's own commands, in a copy."""
    for part in ("infra/aws", "infra/kubernetes"):
        shutil.copytree(ROOT / part, tmp_path / part)
    shutil.copy(ROOT / "ray_cluster.yaml", tmp_path)
    chosen, aws, _ = BLOCKS[0].partition("\naws ")
    assert aws
    for example, ours in {"BUCKET=motiondirector-example": "BUCKET=ours", "=us-east-1": "=eu-west-3"}.items():
        chosen = chosen.replace(example, ours)
    subprocess.run(["bash", "-ec", chosen], cwd=tmp_path, check=True)
    shell = '. infra/aws/node.env; echo "$BUCKET $AWS_DEFAULT_REGION"'
    done = subprocess.run(["bash", "-ec", shell], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == "ours eu-west-3\n"
    assert yaml.safe_load((tmp_path / "ray_cluster.yaml").read_text())["provider"]["region"] == "eu-west-3"


def test_the_keys_of_the_guide_are_keys(tmp_path):
    (block,) = [block for block in BLOCKS if "cat > keys.yaml" in block]
    made = block[: block.index("kubectl")]
    subprocess.run(["bash", "-ec", made], cwd=tmp_path, check=True)
    mine, app = read_api_keys(tmp_path / "keys.yaml")
    assert set(mine.scopes) == set(get_args(Scope))
    assert (app.requests_per_minute, app.concurrency) == (60, 4)
    check_secret(SecretStr((tmp_path / "webhook-secret").read_text().strip()))


def test_models_of_the_guides_batch_are_those_the_clips_were_cut_for():
    batches = [parse(command) for command in commands() if command.split()[1] == "train-batch"]
    assert len(batches) == 2
    for made in batches:
        assert (made["foundation"], made["settings"]) == ("$FOUNDATION", ["dtype=bf16"])
        assert made["evaluate"] is False  # it would run on the head
        assert (
            made["address"] == "auto"
        )  # of the dry run, too: it plans for the lanes and workers there can be


def test_charts_come_from_repositories_that_were_added():
    added, used = set(), set()
    for block in BLOCKS:
        for line in block.splitlines():
            added |= set(re.findall(r"helm repo add (\S+) https://", line))
            charts = set(re.findall(r"helm (?:install|upgrade)\b.*? ([a-z-]+)/[a-z-]+", line))
            assert charts <= added, line
            used |= charts
    assert used == {"kuberay", "prometheus-community"}
