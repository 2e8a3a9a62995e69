"""Training from outside the cluster, through Ray's client: the address that `docs/cluster.md` gives to a laptop."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from clip_sets import sliding_clips, write_set

from infra.ray.cluster import QUIET, python_path, variables
from infra.registry import open_registry
from training.batch.state.state import open_batch
from training.batch.watch.logs import Reader

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
SIZE = ["--frames", "5", "--height", "32", "--width", "32", "--rank", "4", "--steps", "3"]


@pytest.fixture(scope="module")
def address(s3):
    """Of a cluster that lets clients in; its nodes reach the same storage as they do."""
    from ray.cluster_utils import Cluster

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with variables({**QUIET, "PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1"}):
        head = {"num_cpus": 2, "include_dashboard": False, "ray_client_server_port": port}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield f"ray://127.0.0.1:{port}"
        finally:
            cluster.shutdown()


def motiondirector(*arguments, cwd):
    """The command in a process that is no part of the cluster; its output."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "motiondirector", *arguments],
        cwd=cwd,
        env={**environment, "PYTHONPATH": python_path()},
        text=True,
        capture_output=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_concept_is_trained_over_a_client_connection(s3, address, tmp_path: Path):
    data = write_set(f"{s3.uri}/client-one", *sliding_clips("slide", count=1))
    registry = f"{s3.uri}/registry-client-one"
    motiondirector(
        *("train", "--concept", "slide", "--data", data, "--foundation", "tiny-random:wan"),
        *("--registry", registry, "--run-dir", f"{s3.uri}/runs/client", "--address", address, *SIZE),
        cwd=tmp_path,
    )
    (version,) = open_registry(registry).versions("slide")
    assert version.metadata["steps"] == 3


def test_a_batch_is_trained_over_a_client_connection(s3, address, tmp_path: Path):
    data = write_set(f"{s3.uri}/client", *sliding_clips("a", count=1), *sliding_clips("b", count=1))
    registry, manifest = f"{s3.uri}/registry-client", tmp_path / "afar.yaml"
    manifest.write_text(
        f"defaults: {{data: '{data}', foundation: 'tiny-random:wan', frames: 5, height: 32, width: 32, rank: 4, steps: 3}}\n"
        "concepts: [a, b]\n"
    )
    told = motiondirector(
        *("train-batch", str(manifest), "--registry", registry, "--address", address),
        *("--lanes", "2", "--cpus-per-lane", "1", "--no-evaluate"),
        cwd=tmp_path,
    )
    for name in ("a", "b"):
        assert f"{name}: published {name}@1" in told
        (version,) = open_registry(registry).versions(name)
        assert version.metadata["steps"] == 3
    journals = Reader(open_batch(open_registry(registry).storage, "afar").storage)
    assert any(
        line.text.startswith("begins on") for line in journals.new("lanes")
    )  # on the cluster, not here
