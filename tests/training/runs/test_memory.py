"""A foundation that does not fit its device is explained wherever a training loads it."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from infra.errors import OutOfMemory, UserError
from training.config import make_config
from training.memory import explaining_memory
from training.ray.train import _train
from training.runs.inputs import load
from training.runs.job import Job


@pytest.fixture
def too_large(monkeypatch):
    """Every foundation is, of this process's devices."""

    def loading(source, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 26.00 GiB.")

    monkeypatch.setattr("models.load.load_foundation", loading)


@pytest.mark.parametrize(
    ("dtype", "zero", "advice"),
    [
        ("fp32", 0, "use dtype bf16 or zero 3 with workers 2 or more or a device with more memory."),
        ("bf16", 0, "use zero 3 with workers 2 or more or a device with more memory."),
        ("bf16", 3, "use a device with more memory."),
    ],
)
def test_it_says_what_the_device_has_and_what_may_still_help(dtype, zero, advice):
    with pytest.raises(UserError) as raised, explaining_memory("owner/large", dtype, zero, "cpu"):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    message = raised.value.message
    assert message.startswith(f"the foundation owner/large in {dtype} does not fit the memory of ")
    assert " CPU cores" in message
    assert message.endswith(f" GiB); {advice}")
    assert (type(raised.value), raised.value.code) == (OutOfMemory, "foundation_too_large")


def test_a_single_training_explains_it_where_it_is_begun(too_large, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "TextToVideoSDPipeline"}')
    job = Job("c", "clips", "run", "registry", str(tmp_path))
    with pytest.raises(UserError, match=f"{tmp_path} in bf16 does not fit the memory"):
        load(job, {"dtype": "bf16"}, 1)


def test_a_single_training_explains_it_on_its_workers(too_large, tmp_path, monkeypatch):
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1, get_node_rank=lambda: 0)
    monkeypatch.setattr("ray.train.get_context", lambda: context)
    monkeypatch.setattr("ray.train.torch.get_device", lambda: torch.device("meta"))
    monkeypatch.setattr("training.memory.device_name", lambda device: "NVIDIA L4")
    task = SimpleNamespace(foundation="owner/large", config=make_config({}))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        with pytest.raises(UserError, match="owner/large in fp32 does not fit the memory of NVIDIA L4"):
            _train(task, None)
    finally:
        dist.destroy_process_group()
