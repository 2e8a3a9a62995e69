"""The training benchmark's sides: the same losses on the same draws, and each trains from a clip set to a file."""

import pytest

from benchmarks.training_parts import tasks
from benchmarks.training_parts.process import Job, run
from benchmarks.training_parts.steps import make_sides, parity, timings
from models.adapters.file import read_adapter
from models.load import load_foundation

TINY = "tiny-random:unet3d"
SMALL = {"rank": 4, "learning_rate": 1e-2, "steps": 10}


def load():
    return load_foundation(TINY, device="cpu", dtype="float32")


def test_every_side_has_the_published_sides_losses():
    sides, _ = make_sides(load, (1, 2), dropout=0.0, **SMALL)
    assert max(parity(sides, 3).values()) < 1e-5


def test_every_side_is_timed():
    sides, counts = make_sides(load, (2,), **SMALL)
    times = timings(sides, counts, 1, warm_up=0)
    assert times.keys() == sides.keys()
    assert all(timing.median > 0 for timing in times.values())


@pytest.mark.parametrize("side", ["published", "peft", "loop", "pack"])
def test_a_side_trains_concepts_to_files(side, tmp_path):
    foundation = load()
    tasks.write_clip_set(str(tmp_path / "clips"), foundation.defaults.bucket, 2)
    names = [tasks.concept_name(n) for n in range(1 if side == "published" else 2)]
    job = Job(
        side,
        str(tmp_path / "clips"),
        str(tmp_path / "out"),
        names,
        TINY,
        "cpu",
        settings={**SMALL, "steps": 2},
    )
    result = run(job)
    # Linux counts resident pages per thread and adds them up now and then: its peak may lag a little behind.
    assert 0 < result["before_bytes"] <= result["peak_bytes"] + 2**20
    for name in names:
        assert any(b.any() for _, b in read_adapter(tmp_path / "out" / name, foundation).tensors.values())
