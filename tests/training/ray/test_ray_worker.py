"""What a worker of Ray Train does, without Ray: DeepSpeed in this process, and checkpoints that are kept in a folder."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from training_helpers import random_clips, solo_config

from training.loop.checkpoint import STATE, MemberState
from training.ray.train import Task, _train
from training.runs.local import train_local


class RayTrain:
    """Stands for Ray Train: a single worker's context, the newest checkpoint, and where reports go."""

    def __init__(self, monkeypatch, folder):
        self.folder, self.newest, self.events = folder, None, []
        one = {"get_world_rank": 0, "get_world_size": 1, "get_node_rank": 0, "get_local_world_size": 1}
        context = SimpleNamespace(**{name: lambda value=value: value for name, value in one.items()})
        monkeypatch.setattr("ray.train.get_context", lambda: context)
        monkeypatch.setattr("ray.train.torch.get_device", lambda: torch.device("cpu"))
        monkeypatch.setattr("ray.train.get_checkpoint", lambda: self.newest)
        monkeypatch.setattr("ray.train.report", self.report)
        monkeypatch.setattr("training.reporting.metrics.TrainingMetrics", lambda: lambda *_: None)
        monkeypatch.setattr("training.ray.train.keep_freed_memory", lambda: None)
        self.board = SimpleNamespace(push=SimpleNamespace(remote=self.events.append))

    def report(self, metrics, checkpoint):
        shutil.copytree(checkpoint.path, self.at(metrics["step"]))

    def at(self, step):
        return self.folder / str(step)

    def go_on_from(self, folder):
        self.newest = SimpleNamespace(as_directory=lambda: nullcontext(str(folder)))

    def told(self, kind):
        return [event for event in self.events if event["kind"] == kind]


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """Of one process; DeepSpeed remembers its first."""
    rendezvous = tmp_path_factory.mktemp("group") / "rendezvous"
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def ray_train(group, monkeypatch, tmp_path):
    monkeypatch.setenv("LOCAL_RANK", "0")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the worker of a small model
    yield RayTrain(monkeypatch, tmp_path / "checkpoints")
    torch.set_num_threads(threads)


@pytest.mark.parametrize("zero", [0, 2])
def test_a_worker_trains_keeps_checkpoints_and_goes_on_to_the_bits_of_training_here(ray_train, unet3d, zero):
    clips = random_clips(unet3d, 2)
    config = solo_config(unet3d, steps=6, checkpoint_interval=4, sample_interval=3, gradient_accumulation=2)
    task = Task(
        "c",
        "tiny-random:unet3d",
        unet3d.fingerprint,
        "0" * 64,
        config.model_copy(update={"zero": zero}),
        clips,
    )
    _train(task, ray_train.board)
    assert [event["step"] for event in ray_train.told("start")] == [0]
    assert [event["step"] for event in ray_train.told("step")] == list(range(1, 7))
    assert [event["step"] for event in ray_train.told("sample")] == [3]
    last = MemberState.read(ray_train.at(6), moments=False)
    assert (last.step, last.position["workers"], last.position["zero"]) == (6, 1, zero)
    assert last.position["metrics"]["loss"] == pytest.approx(
        sum(event["loss"] for event in ray_train.told("step")) / 6
    )

    kept, ray_train.folder = ray_train.at(4), Path(f"{ray_train.folder}-again")
    ray_train.go_on_from(kept)
    _train(task, ray_train.board)
    assert [event["step"] for event in ray_train.told("start")] == [0, 4]
    assert [path.name for path in ray_train.folder.iterdir()] == ["6"]
    again = MemberState.read(ray_train.at(6), moments=False)
    assert all(torch.equal(again.tensors[key], tensor) for key, tensor in last.tensors.items())
    if zero == 0:
        assert sorted(path.name for path in kept.iterdir()) == [STATE]
        here = train_local(unet3d, "c", clips, config)["temporal"]
        for layer, halves in last.adapter("temporal").items():
            assert all(torch.equal(a, b) for a, b in zip(halves, here[layer], strict=True))
