"""What a training gives out: its adapters at the setting `strength`, its checkpoints without it."""

import torch

from training.config import make_config
from training.loop.finished import finished


def learned(path):
    return {"layer": (torch.ones(2, 3), torch.full((4, 2), 10.0 if path == "temporal" else 20.0))}


def test_the_motion_adapter_alone_is_multiplied():
    given = finished(make_config({"method": "coupled", "strength": 1.1}), learned)
    assert list(given) == ["spatial", "temporal"]
    assert torch.equal(given["spatial"]["layer"][1], torch.full((4, 2), 20.0))
    a, b = given["temporal"]["layer"]
    assert torch.equal(a, torch.ones(2, 3))
    assert torch.allclose(b, torch.full((4, 2), 11.0))


def test_strength_1_changes_no_bit():
    of = learned("temporal")
    assert finished(make_config({}), lambda path: of)["temporal"] is of
