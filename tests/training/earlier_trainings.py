"""Trainings that an earlier version began and did not end, with their clips (folder earlier/).

That version had one loop and one checkpoint format for a run, and others for a batch (a lane that was stopped). Both trained
the concept `slide` on tiny-random:unet3d, with the same settings.
"""

import json
import shutil
from pathlib import Path

from datasets.clip_sets.clips import read_clips
from datasets.clip_sets.latents import LatentCache, prepare
from infra.storage import open_storage
from models.sizes import Bucket
from training.batch.state.work import Work
from training.config import TrainConfig
from training.runs.local import train_local

EARLIER = Path(__file__).parent / "earlier"


def settings():
    """Those of both trainings."""
    return json.loads((EARLIER / "batch" / "concepts" / "slide.json").read_text())["work"]["config"]


def clips_at(folder):
    """A copy of the clips, whose URI is the folder's."""
    shutil.copytree(EARLIER / "clips", folder)
    return str(folder)


def whole(foundation, data):
    """The temporal adapter of the same training without a break, on this machine."""
    config = TrainConfig(**settings())
    bucket = Bucket(config.frames, config.height, config.width)
    clips = prepare(read_clips(data, "slide"), foundation, bucket, LatentCache(open_storage(data)))
    return train_local(foundation, "slide", clips, config)["temporal"]


def difference(one, other):
    """Norm of the difference of two adapters, relative to the first's."""
    norm, apart = 0.0, 0.0
    assert one.keys() == other.keys()
    for layer, halves in one.items():
        for a, b in zip(halves, other[layer], strict=True):
            norm, apart = norm + float(a.square().sum()), apart + float((a - b).square().sum())
    return (apart / norm) ** 0.5


def run_at(folder, foundation):
    """A copy of the run. The random foundation of this machine has a fingerprint of its own."""
    shutil.copytree(EARLIER / "run", folder)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "foundation_fingerprint": foundation.fingerprint}))
    return folder


def batch_at(folder, foundation, data):
    """A copy of the batch, of this machine's foundation and clips."""
    shutil.copytree(EARLIER / "batch", folder)
    path = folder / "concepts" / "slide.json"
    record = json.loads(path.read_text())
    record["lease"]["expires"] = 0  # whatever this machine's clock says
    record["work"]["config"]["max_failures"] = 1  # its lane was lost
    record["work"] |= {"data": data, "fingerprint": foundation.fingerprint}
    record["sha256"] = Work.from_dict(record["work"]).sha256
    path.write_text(json.dumps(record))
    return folder
