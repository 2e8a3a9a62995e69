"""The main job on both model families: ingest a clip, train on it, publish, serve, and check the frames.

All parts are real (S3 over HTTP, Ray Train with DeepSpeed, the registry, Ray Serve); the models are tiny and random.
"""

import socket
from pathlib import Path

import numpy as np
import pytest
from ray import serve

from datasets.clip_sets.select import Selection
from datasets.ingest.local import ingest
from datasets.ingest.sources import expand
from datasets.video.decode import decode
from datasets.video.writing import read_metadata
from infra.ray.cluster import ray_session
from infra.registry import open_registry
from infra.storage import open_storage
from models.load import load_foundation
from serving.client import Client
from serving.config import ServeConfig
from serving.local import generate
from serving.ray.deployment import APP_NAME, build_app
from serving.schemas import CreateVideo
from training.runs.job import Job, Watcher
from training.runs.run import run_job

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[1]
FOX = ROOT / "assets/clips/fox_running.mp4"


@pytest.fixture(scope="module")
def cluster(s3):
    """One Ray for both families, with CPUs for two workers and an engine."""
    with ray_session("local", num_cpus=3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()


class Workers(Watcher):
    """Remembers how many workers a run had."""

    def __init__(self):
        self.numbers = []

    def started(self, step, steps, workers, device):
        self.numbers.append(workers)


# A UNet on an elastic number of workers, and a transformer on one with ZeRO in bf16.
TRAININGS = {
    "unet3d": ({"workers": "1:2"}, [2]),
    "wan": ({"workers": 1, "zero": 2, "dtype": "bf16"}, [1]),
}


@pytest.mark.parametrize("family", ["unet3d", pytest.param("wan", marks=pytest.mark.slow)])
def test_a_clip_becomes_a_served_motion(family, cluster, s3, tmp_path):
    source = f"tiny-random:{family}"
    bucket = load_foundation(source).defaults.bucket
    data, registry = f"{s3.uri}/e2e/{family}/clips", f"{s3.uri}/e2e/{family}/registry"

    selection = Selection(bucket.frames, bucket.height, bucket.width, fps=8)
    report = ingest(
        expand([str(FOX)]), selection, open_storage(data), concept="run", caption="a fox is running"
    )
    assert report.count("accepted") == 1

    cluster_settings, expected = TRAININGS[family]
    workers = Workers()
    version = run_job(
        Job("run", data, f"{s3.uri}/e2e/{family}/run", registry, foundation=source),
        {"steps": 3, "rank": 4, "learning_rate": 0.05, **cluster_settings},
        workers,
    )
    assert version.ref == "run@1"
    assert workers.numbers == expected
    assert version.metadata["foundation"] == f"tiny-random-{family}"
    assert open_registry(registry).resolve("run").adapter_sha256 == version.adapter_sha256

    config = ServeConfig(
        foundation=source, registry=registry, data_dir=str(tmp_path / "serve"), rank=4, threads=1, slots=2
    )
    asked = CreateVideo(model="foundation:run", prompt="a bear is running", seed=5)
    plain = CreateVideo(model="foundation", prompt="a bear is running", seed=5)
    serve.run(build_app(config), name=APP_NAME, route_prefix="/")
    with Client(cluster) as client:
        jobs = [client.create(body) for body in (asked, plain)]
        adapted, base = (client.content(client.wait(job.id).id) for job in jobs)
    serve.delete(APP_NAME)

    told = read_metadata(adapted)
    assert told["concept"] == "run@1"
    assert version.adapter_sha256 in told["adapters"]
    frames, base_frames = decode(adapted).frames_FHWC, decode(base).frames_FHWC
    assert frames.shape == (bucket.frames, bucket.height, bucket.width, 3)
    assert not np.array_equal(frames, base_frames), "three steps at this rate must be seen"

    local, _ = generate(asked, config)
    # A batch rounds differently from a single request: one level of one pixel, which the encoder spreads over its blocks.
    apart = np.abs(decode(local).frames_FHWC.astype(int) - frames)
    without = np.abs(base_frames.astype(int) - frames)  # difference between two unrelated answers
    assert apart.max() <= 8
    assert apart.mean() < without.mean() / 100, "the service and this process agree"
