"""Encoders that wait in host memory: where they are before, during and after they work."""

import numpy as np
import pytest
import torch

from infra.errors import InvalidInput
from models.denoise import sample
from models.generation import GenerationParams
from models.load import load_foundation
from models.offloading import Visit, offload_encoders


class Traveller(torch.nn.Linear):
    """Remembers where it was sent."""

    def __init__(self):
        super().__init__(1, 1)
        self.places = []

    def to(self, device):
        self.places.append(str(device))
        return self


def test_modules_are_on_the_device_during_a_call_and_in_host_memory_after_it():
    module = Traveller()
    visit = Visit([module], torch.device("cuda:1"))

    def works():
        assert module.places == ["cuda:1"]
        return 7

    inner = visit.during(works)
    outer = visit.during(lambda: inner() + inner())
    assert outer() == 14
    assert module.places == ["cuda:1", "cpu"], "a nested call moves nothing"

    def fails():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        visit.during(fails)()
    assert module.places[2:] == ["cuda:1", "cpu"]


def test_every_family_of_calls_brings_its_own_modules():
    foundation = load_foundation("tiny-random:hunyuan", device="cpu", dtype="fp32")
    request = GenerationParams(prompt="a cat", seed=1, steps=2)
    expected = sample(foundation, [request])[0]
    sent = {}
    for name in ("text_encoder", "text_encoder_2", "vae", "transformer"):
        module = getattr(foundation.pipeline, name)
        module.to = lambda device, name=name, own=module.to: (
            sent.setdefault(name, []).append(str(device)) or own(device)
        )
    # The meta device cannot compute: its name alone is another.
    offload_encoders(foundation, torch.device("cpu:0"))
    assert np.array_equal(sample(foundation, [request])[0], expected)
    assert sent == {
        "text_encoder": ["cpu:0", "cpu"],
        "text_encoder_2": ["cpu:0", "cpu"],
        "vae": ["cpu:0", "cpu"],
    }


def test_a_model_in_host_memory_is_not_offloaded():
    with pytest.raises(InvalidInput, match="the model is on the CPU; leave offload out"):
        load_foundation("tiny-random:unet3d", device="cpu", offload="encoders")
    with pytest.raises(InvalidInput, match="offload 'blocks' is not one of none, encoders"):
        load_foundation("tiny-random:unet3d", device="cpu", offload="blocks")
