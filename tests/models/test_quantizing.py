"""A base in int8: how far its answers and gradients are from fp32, adapters beside it, and what is refused."""

import sys

import numpy as np
import pytest
import torch

from infra.errors import InvalidInput, UserError
from models.denoise import sample
from models.generation import GenerationParams, SlotUse
from models.load import load_foundation
from models.lora.routing import Mix, Routing
from models.quantizing import quantize_base, quantized_linears, saved_by_int8
from serving.config import make_config as make_serve_config
from serving.ray.engine_service import build_engine
from training.config import make_config

# Rounding a weight to a byte moves it by at most 1/254 of its row's largest; over a layer these errors mostly cancel.
ANSWER, GRADIENT = 0.01, 0.02  # of the norm; at most 0.0075 and 0.015 were seen


def of_dtype(source, quantize, dtype="fp32"):
    foundation = load_foundation(f"tiny-random:{source}", device="cpu", dtype=dtype, quantize=quantize)
    bank = foundation.add_bank({"spatial": 1, "temporal": 2}, 4, trainable=True)
    generator = torch.Generator().manual_seed(0)
    for parameter in bank.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return foundation


def answer_and_gradient(foundation):
    """Two samples with an adapter each: the answer, and the gradient of the first adapter."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, *foundation.latent_shape(foundation.defaults.bucket), generator=generator)
    t = foundation.noise.timesteps(torch.tensor([0.9, 0.3]))
    text = foundation.encode_text(["a cat", "a red dog"])
    answer = foundation.predict(latents, t, text, Routing(temporal=Mix.of([[1], [2]])))
    answer.float().square().mean().backward()
    gradients = [one.grad for one in foundation.bank.slot_parameters("temporal", 1) if one.grad is not None]
    return answer.detach(), torch.cat([one.flatten() for one in gradients])


@pytest.mark.parametrize("source", ["unet3d", "animatediff", "wan22", "cogvideox", "hunyuan", "ltx"])
def test_answers_and_gradients_of_adapters_are_close_to_those_on_fp32(source):
    plain, int8 = (of_dtype(source, kind) for kind in ("none", "int8"))
    weights = [type(one.weight.data).__name__ for one in quantized_linears(int8)]
    assert weights, "some layers are quantized"
    assert set(weights) == {"Int8Tensor"}
    assert set(int8.trained_targets["temporal"]) & {
        name for name, one in int8.denoiser.named_modules() if one in quantized_linears(int8)
    }, "adapters are beside quantized layers"
    for expected, found, bound in zip(
        answer_and_gradient(plain), answer_and_gradient(int8), (ANSWER, GRADIENT), strict=True
    ):
        error = float((found - expected).norm() / expected.norm())
        assert 0 < error < bound
    assert all(not one.requires_grad for one in int8.denoiser.parameters())


def test_the_bytes_that_int8_saves_are_those_of_the_weights():
    plain, int8 = (of_dtype("wan", kind, "bf16") for kind in ("none", "int8"))
    stored = sum(one.weight.qdata.nbytes + one.weight.scale.float().nbytes for one in quantized_linears(int8))
    before = sum(one.weight.nbytes for one in quantized_linears(plain))
    assert saved_by_int8(plain, 2) == before - stored
    assert answer_and_gradient(int8)[0].isfinite().all()


def test_one_batch_on_an_int8_base_gives_each_request_its_frames():
    foundation = load_foundation("tiny-random:unet3d", device="cpu", dtype="fp32", quantize="int8")
    bank = foundation.add_bank({"temporal": 2}, 4)
    generator = torch.Generator().manual_seed(0)
    for slot in (1, 2):
        layers = bank.extract("temporal", slot)
        random = {
            name: tuple(torch.randn(one.shape, generator=generator) * 0.3 for one in pair)
            for name, pair in layers.items()
        }
        bank.write("temporal", slot, random)
    requests = [
        GenerationParams(prompt="a cat", seed=3, adapters=(SlotUse(path="temporal", slot=slot),))
        for slot in (1, 2)
    ]
    together = sample(foundation, requests, batch_size=2)
    alone = [sample(foundation, [one])[0] for one in requests]
    for one, other in zip(together, alone, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1
    assert np.abs(together[0].astype(int) - together[1]).max() > 8, "the adapters differ"


def test_what_does_not_go_together_is_refused():
    with pytest.raises(UserError, match="quantize int8 does not suit zero 3"):
        make_config({"quantize": "int8", "zero": 3, "workers": 2})
    with pytest.raises(UserError, match="compile does not suit quantize int8"):
        build_engine(make_serve_config(compile=True, quantize="int8"))
    with pytest.raises(InvalidInput, match="quantize 'int4' is not one of none, int8"):
        load_foundation("tiny-random:unet3d", device="cpu", quantize="int4")


def test_without_torchao_it_says_what_to_install(monkeypatch):
    foundation = load_foundation("tiny-random:unet3d", device="cpu", dtype="fp32")
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(InvalidInput, match=r"needs the package torchao; install it with: pip install"):
        quantize_base(foundation, "int8")
