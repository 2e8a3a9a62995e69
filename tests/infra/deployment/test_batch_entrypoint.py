"""The command that a RayJob of ours starts, run here as it is written: on a cluster whose head has no CPU, as its own."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from clip_sets import sliding_clips, write_set
from kustomize import build, containers

from infra.ray.cluster import WORKER_NODES, ray_session
from models.load import load_foundation

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[3]
BUCKET = "s3://motiondirector-example"
CONCEPTS = ("car-turn", "orbit")


@pytest.fixture(scope="module")
def cluster():
    with ray_session(num_cpus=0, num_gpus=0) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def clips(s3):
    """The clips that the manifest names, of the embedded model's size."""
    size = load_foundation(None, device="cpu", parts=()).defaults.bucket
    made = [clip for name in CONCEPTS for clip in sliding_clips(name, 1, size.frames, size.width)]
    return write_set(f"{s3.uri}/clips", *made)


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_the_entrypoint_plans_its_manifest_for_the_workers_to_come(cluster, s3, clips, tmp_path, variant):
    """With --dry-run: the workers that the autoscaler would add are not here. RAY_ADDRESS is as Ray's jobs have it."""
    objects = build(ROOT / "infra" / "kubernetes" / "overlays" / variant / "batch")
    (job,) = [thing["spec"] for thing in objects if thing["kind"] == "RayJob"]
    (head,) = containers(job["rayClusterSpec"]["headGroupSpec"])
    (mount,) = [one for one in head["volumeMounts"] if one["name"] == "batch"]
    (manifest,) = [thing["data"] for thing in objects if thing["metadata"]["name"] == "motiondirector-batch" and "data" in thing]  # fmt: skip
    for name, text in manifest.items():
        (tmp_path / name).write_text(text.replace(BUCKET, s3.uri))
    command = (
        job["entrypoint"].replace(BUCKET, s3.uri).replace(mount["mountPath"], shlex.quote(str(tmp_path)))
    )
    told = {variable["name"]: variable["value"] for variable in head["env"]}
    result = subprocess.run(
        ["bash", "-c", f"{command} --dry-run"],
        env={
            **os.environ,
            **s3.env,
            WORKER_NODES: told[WORKER_NODES],
            "RAY_ADDRESS": cluster.address,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "COLUMNS": "160",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "2 concepts to train in" in result.stdout
    assert "on 8 lanes; 0 already done" in " ".join(result.stdout.split())
    assert all(name in result.stdout for name in CONCEPTS)
