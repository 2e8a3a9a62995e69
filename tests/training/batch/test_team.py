"""A lane of several workers: what its members learn is what they learn on one, whoever comes and goes meanwhile."""

import os
from pathlib import Path

import pytest
import torch
from team_worker import alone

HERE = Path(__file__).parents[1]
WORKERS = 2


def told_by(warm, folder, zero):
    """What the leader of a team of two processes saved."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])}
    processes = [
        warm.start(
            [str(HERE / "team_worker.py"), str(rank), str(WORKERS), str(folder), str(zero)],
            cwd=HERE,
            env={**environment, "OMP_NUM_THREADS": "1", "LOCAL_RANK": str(rank)},
        )
        for rank in range(WORKERS)
    ]
    try:
        for process in processes:
            assert process.wait() == 0, (process.output + process.errors)[-3000:]
    finally:
        for process in processes:
            process.kill()
    return torch.load(folder / "told.pt", weights_only=True)


def flat(layers):
    return torch.cat([half.flatten().double() for name in sorted(layers) for half in layers[name]])


@pytest.fixture(scope="module")
def one():
    return alone(WORKERS)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 3])
def test_a_team_trains_what_one_worker_trains(one, warm, tmp_path, zero):
    told = told_by(warm, tmp_path, zero)
    adapters, losses = told["story"]
    assert sorted(adapters) == ["m1", "m2", "m3", "m4"]
    assert {name: len(values) for name, values in losses.items()} == {"m1": 6, "m2": 3, "m3": 9, "m4": 2}
    for name, values in one[1].items():
        assert losses[name] == pytest.approx(values, rel=1e-5), name
    for name, layers in one[0].items():
        mine, its = flat(layers), flat(adapters[name])
        assert float((its - mine).norm() / mine.norm()) < 1e-4, (
            name
        )  # sums in another order, and AdamW's first steps
    # At ZeRO 3 a worker has its share of the base, between two steps as well.
    assert told["held"] == pytest.approx(told["whole"] / (WORKERS if zero else 1), rel=0.01)
    assert told["gathered"] == (0 if zero else told["whole"])
    # It was cut into shares before DeepSpeed's engine had it, which would have put it on the device whole.
    assert told["handed"] == ([0] if zero else [])
    # What DeepSpeed remembers of a pack that has ended holds no memory.
    assert (told["left"], told["bank"]) == (0, False)
