"""Training on a Ray cluster, over S3: one concept with two workers, killed with SIGKILL and continued; a batch in two lanes."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import psutil
import pytest
import torch
from clip_sets import sliding_clips, write_set
from PIL import Image
from typer.testing import CliRunner

from infra.errors import UserError
from infra.ray.cluster import ray_session, variables
from infra.registry import open_registry
from infra.storage import open_storage
from models.adapters.file import read_adapter
from models.adapters.noise_prior import read_noise
from models.adapters.versions import noise_file
from models.foundations.base import Bucket
from models.load import load_foundation
from motiondirector.cli import build
from training.adapters import describe, write_adapters
from training.batch.state.state import open_batch
from training.batch.watch.logs import Reader
from training.ray.processes import ONE_MACHINE, begin_processes, session_variables
from training.runs.inputs import bucket_of, load, prepare_latents, read_concept
from training.runs.job import Job, Watcher
from training.runs.local import train_local
from training.runs.run import run_job

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[3]
SETTINGS = {
    "steps": 40,
    "rank": 4,
    "frames": 4,
    "height": 32,
    "width": 32,
    "workers": 2,
    "checkpoint_interval": 5,
    "learning_rate": 1e-2,
    "noise_prior": True,  # which the adapter's metadata says
}


@pytest.fixture(scope="module")
def cluster(s3):
    """A session as `train` starts it for itself, which has its processes ready sooner; here for all trainings."""
    with variables(ONE_MACHINE), variables(session_variables()), ray_session("local", num_cpus=2) as session:
        yield session


@pytest.fixture(scope="module")
def data(s3):
    return write_set(f"{s3.uri}/clips", *sliding_clips("slide"))


@pytest.fixture(scope="module")
def job(s3, data):
    def make(name, **changes):
        fields = {
            "concept": "slide",
            "data": data,
            "foundation": "tiny-random:unet3d",
            "run_dir": f"{s3.uri}/runs/{name}",
            "registry": f"{s3.uri}/registry-{name}",
        }
        return Job(**{**fields, **changes})

    return make


class Notes(Watcher):
    """Remembers what it was told; calls `once` after the first step that `when` holds at."""

    def __init__(self, when=None, once=None):
        self.steps, self.starts, self.samples, self.when, self.once = [], [], {}, when, once
        self.workers = []

    def started(self, step, steps, workers, device):
        self.starts.append(step)
        self.workers.append(workers)

    def stepped(self, report):
        self.steps.append(report["step"])
        if self.once and self.when():
            action, self.once = self.once, None
            action()

    def sampled(self, step, keys):
        self.samples[step] = list(keys)


@pytest.fixture(scope="module")
def whole(cluster, job):
    """(job, version, notes) of a run that nothing disturbed."""
    notes, mine = Notes(), job("whole")
    return mine, trained(mine, {**SETTINGS, "sample_interval": 20}, notes), notes


def trained(job, settings, notes=None):
    """The version that a run publishes; its processes start while it prepares, as those of `train` do."""
    begin_processes(job.foundation, 2, use_gpu=False)
    return run_job(job, settings, notes)


def kill_a_worker():
    """SIGKILL to one of the training workers that this process's cluster runs."""
    workers = [
        p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline()[:1])
    ]
    assert len(workers) == 2
    workers[-1].send_signal(signal.SIGKILL)


def test_every_step_is_told_and_the_loss_published(whole):
    _, version, notes = whole
    assert notes.starts == [0]
    assert notes.steps == list(range(1, 41))
    assert version.ref == "slide@1"
    assert version.metrics["loss"] == pytest.approx(
        version.metrics["spatial_loss"] + version.metrics["temporal_loss"]
    )


def test_the_published_adapter_fits_and_says_where_it_comes_from(whole, tmp_path):
    job, version, _ = whole
    folder = open_registry(job.registry).pull(version, tmp_path / "pulled")
    foundation = load_foundation("tiny-random:unet3d", device="cpu")
    adapter = read_adapter(folder, foundation)
    assert (adapter.path, adapter.rank, adapter.concept) == ("temporal", 4, "slide")
    assert any(b.any() for _, b in adapter.tensors.values())
    for key in ("method", "captions", "steps", "config", "data_sha256", "foundation_fingerprint"):
        assert adapter.metadata[key], key
    assert version.metadata["steps"] == 40


def test_the_noise_prior_of_both_clips_is_published(whole, tmp_path):
    job, version, _ = whole
    foundation = load_foundation(job.foundation, device="cpu", dtype=torch.float32)
    registry = open_registry(job.registry)
    name = noise_file(Bucket(4, 32, 32))
    (tmp_path / "prior").write_bytes(registry.read(version, name))
    assert len(read_noise(tmp_path / "prior", foundation).noise_NCfhw) == 2
    assert open_storage(job.run_dir).get(f"adapter/{name}") == (tmp_path / "prior").read_bytes()


def test_samples_are_videos_with_a_sheet_while_training_and_at_the_end(whole):
    job, version, notes = whole
    run = open_storage(job.run_dir)
    assert sorted(notes.samples) == [20, 40]
    for keys in notes.samples.values():
        *videos, sheet = keys
        with av.open(io.BytesIO(run.get(videos[0]))) as video:
            assert video.streams.video[0].frames == 4
            assert video.metadata["concept"] == "slide"
        assert Image.open(io.BytesIO(run.get(sheet))).width > 32
    assert "samples/000040-1.mp4" in version.files


def test_tensorboard_shows_losses_rate_time_and_samples(whole, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = open_storage(whole[0].run_dir)
    for info in run.list("tensorboard/"):
        run.get_file(info.key, tmp_path / Path(info.key).name)
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = {"loss/spatial", "loss/temporal", "loss/total", "learning_rate", "step_seconds"}
    assert tags <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("loss/temporal")] == list(range(1, 41))
    assert [e.step for e in events.Images("samples")] == [20, 40]


def has_checkpoint(run_dir):
    return open_storage(run_dir).exists("train/checkpoint_manager_snapshot.json")


@pytest.mark.slow
def test_a_run_whose_worker_is_killed_and_that_then_goes_on_to_more_steps_ends_in_the_same_bits(whole, job):
    mine = job("worker-killed")
    notes = Notes(when=lambda: has_checkpoint(mine.run_dir), once=kill_a_worker)
    assert trained(mine, {**SETTINGS, "steps": 33}, notes).ref == "slide@1"
    assert len(notes.starts) == 2
    assert 5 <= notes.starts[1] < 33
    more = Notes()
    version = trained(mine, SETTINGS, more)
    assert version.ref == "slide@2"
    assert more.starts == [33]
    assert more.steps == list(range(34, 41))
    assert version.metadata["steps"] == 40
    assert version.adapter_sha256 == whole[1].adapter_sha256
    assert run_job(mine, SETTINGS).ref == "slide@2"
    assert [v.metadata["steps"] for v in open_registry(mine.registry).versions("slide")] == [33, 40]


@pytest.mark.faults  # its workers start twice, and Ray counts what there is room for between
def test_an_elastic_run_outlives_a_worker(cluster, job):
    mine = job("elastic-killed")
    notes = Notes(when=lambda: has_checkpoint(mine.run_dir), once=kill_a_worker)
    version = trained(mine, {**SETTINGS, "workers": "1:2"}, notes)
    assert len(notes.workers) >= 2  # again, and once more where the second's place was free only later
    assert set(notes.workers) <= {1, 2}
    assert all(5 <= start < 40 for start in notes.starts[1:])
    assert set(notes.steps) == set(range(1, 41))
    assert version.metadata["steps"] == 40


@pytest.mark.slow
def test_a_run_whose_driver_is_killed_continues_to_the_same_bits(whole, job, cluster):
    mine = job("driver-killed")
    command = [sys.executable, "-m", "motiondirector", "train", "--address", cluster.address]
    command += ["--concept", "slide", "--data", mine.data, "--foundation", mine.foundation]
    command += ["--run-dir", mine.run_dir, "--registry", mine.registry]
    for key, value in SETTINGS.items():
        option = f"--{key.replace('_', '-')}"
        command.append(option if value is True else f"{option}={value}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        until = time.monotonic() + 240
        while not has_checkpoint(mine.run_dir):
            assert process.poll() is None, process.stdout.read().decode()
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    notes = Notes()
    version = trained(mine, SETTINGS, notes)
    assert 5 <= notes.starts[0] < 40
    assert version.adapter_sha256 == whole[1].adapter_sha256


def test_a_finished_run_answers_what_it_published(whole):
    job, version, _ = whole
    assert run_job(job, {**SETTINGS, "sample_interval": 20}).ref == version.ref
    assert len(open_registry(job.registry).versions("slide")) == 1


@pytest.mark.slow
def test_one_worker_publishes_the_bytes_that_training_in_process_writes(cluster, job, tmp_path):
    settings = {**SETTINGS, "steps": 3, "workers": 1, "method": "full"}
    mine = job("full")
    version = trained(mine, settings)
    assert version.metadata["method"] == "full"
    assert version.metadata["rank"] > SETTINGS["rank"]
    read = read_concept(mine)
    foundation, config = load(mine, settings, len(read))
    clips = prepare_latents(mine, read, foundation, bucket_of(config, foundation), Watcher(), config)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the worker of a small model: sums are split by them, and round so
    try:
        tensors = train_local(foundation, mine.concept, clips, config)
    finally:
        torch.set_num_threads(threads)
    written = write_adapters(tmp_path, foundation, tensors, describe(config, mine.concept, clips))
    assert written["temporal"].sha256 == version.adapter_sha256


def test_a_batch_is_trained_by_lanes_and_published(cluster, s3, tmp_path):
    data = write_set(f"{s3.uri}/batch", *sliding_clips("a", count=1), *sliding_clips("b", count=1))
    manifest, registry = tmp_path / "two.yaml", f"{s3.uri}/registry-lanes"
    manifest.write_text(
        f"defaults: {{data: '{data}', foundation: 'tiny-random:wan', frames: 5, height: 32, width: 32, rank: 4, steps: 3}}\n"
        "concepts: [a, b]\n"
    )
    command = ["train-batch", str(manifest), "--registry", registry, "--lanes", "2", "--cpus-per-lane", "1"]
    result = CliRunner().invoke(build(), [*command, "--no-evaluate"])
    assert result.exit_code == 0, (result.output, result.exception)
    for name in ("a", "b"):
        assert f"{name}: published {name}@1" in result.output
        (version,) = open_registry(registry).versions(name)
        assert version.metadata["steps"] == 3
    journals = Reader(open_batch(open_registry(registry).storage, "two").storage)
    lanes = {line.lane for line in journals.new("lanes") if line.text.startswith("begins on")}
    trained_by = {line.lane for line in journals.new("concepts")}
    assert trained_by
    assert trained_by <= lanes
    for lane in lanes:
        assert f"lane {lane} runs on" in result.output


def test_more_workers_than_the_cluster_has_are_refused_at_once(cluster, job):
    mine = job("crowd")
    with pytest.raises(UserError, match=r"99 workers .* cluster has 2 CPUs"):
        run_job(mine, {**SETTINGS, "workers": 99})
    assert not list(open_storage(mine.run_dir).list())
