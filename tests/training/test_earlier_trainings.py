"""Checkpoints that an earlier version wrote, of a run and of a batch's concept, are gone on from."""

import json

from earlier_trainings import batch_at, clips_at, difference, run_at, settings, whole

from datasets.clip_sets.clips import read_clips
from datasets.clip_sets.latents import LatentCache, prepare
from infra.registry import open_registry
from infra.storage import open_storage
from models.adapters.file import read_adapter
from models.sizes import Bucket
from training.batch.lane.lane import Lane
from training.batch.state.state import open_batch
from training.batch.watch.watcher import Watcher
from training.config import TrainConfig
from training.loop.checkpoint import EARLIER, MemberState
from training.loop.member import Member
from training.loop.pack_of_one import PackOfOne

CLOSE = 1e-2  # the machine that began them rounds otherwise; without the moments it would be 0.3


def test_a_runs_checkpoint_in_two_files_is_gone_on_from(unet3d, tmp_path):
    data, config = clips_at(tmp_path / "clips"), TrainConfig(**settings())
    (folder,) = run_at(tmp_path / "run", unet3d).glob("train/checkpoint_*")
    assert {path.name for path in folder.glob("*.safetensors")} == set(EARLIER)
    state = MemberState.read(folder)
    state.check_workers(zero=0, workers=1)
    assert 0 < state.step < config.steps
    assert any(key.endswith("/exp_avg") for key in state.tensors)
    (folder / EARLIER[1]).unlink()  # as at ZeRO 1-3, where DeepSpeed keeps the moments
    sharded = MemberState.read(folder)
    assert sharded.tensors.keys() == MemberState.read(folder, moments=False).tensors.keys()
    assert sharded.position == state.position
    bucket = Bucket(config.frames, config.height, config.width)
    clips = prepare(read_clips(data, "slide"), unet3d, bucket, LatentCache(open_storage(data)))
    with PackOfOne(unet3d, Member("slide", "slide", config, clips), state) as run:
        assert [report.step for report in run.train()] == list(range(state.step + 1, config.steps + 1))
        found = run.tensors("slide")["temporal"]
    assert difference(whole(unet3d, data), found) < CLOSE


class Steps(Watcher):
    def __init__(self):
        self.steps = []

    def stepped(self, name, report):
        self.steps.append(report.step)


def test_a_batchs_concept_is_gone_on_with_and_published(unet3d, tmp_path, monkeypatch):
    data, registry = clips_at(tmp_path / "clips"), open_registry(tmp_path / "registry")
    folder = batch_at(tmp_path / "registry" / "batches" / "b", unet3d, data)
    step = json.loads((folder / "concepts" / "slide.json").read_text())["checkpoint_step"]
    monkeypatch.setattr("training.batch.lane.lane.load_foundation", lambda source, **options: unet3d)
    batch, watcher = open_batch(registry.storage, "b"), Steps()
    Lane(batch, registry, device="cpu", prepare_ahead=False, watcher=watcher).run()
    (record,) = batch.records()
    assert (record.status, record.reason, record.version) == ("published", None, "slide@1")
    assert watcher.steps == list(range(step + 1, TrainConfig(**settings()).steps + 1))
    pulled = registry.pull(registry.resolve("slide@1"), tmp_path / "pulled")
    assert difference(whole(unet3d, data), read_adapter(pulled, unet3d).tensors) < CLOSE
