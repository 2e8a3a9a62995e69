"""The adapter bank: any mix of adapters in one forward, and the same slots train."""

import pytest
import torch
from diffusers import UNet3DConditionModel

from models.denoise import sample
from models.foundations.unets.unet3d import lora_targets
from models.generation import GenerationParams, SlotUse
from models.lora.bank import AdapterBank
from models.lora.routing import Mix, Routing
from models.lora.slots import LoraSlots
from models.lora.term import kept


def inputs(foundation, batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn((batch, *foundation.latent_shape(foundation.defaults.bucket)), generator=generator)
    t = foundation.noise.timesteps(torch.linspace(0.2, 0.9, batch))
    return latents, t, foundation.encode_text(["a cat", "a red dog", "rain"][:batch])


def test_zeroscope_shape_has_the_published_module_and_parameter_counts():
    """96 modules / 8.8 M spatial, 170 / 12.5 M temporal at rank 32 (docs of the method)."""
    with torch.device("meta"):
        unet = UNet3DConditionModel(cross_attention_dim=1024, attention_head_dim=64)
        targets = lora_targets(unet)
        bank = AdapterBank(unet, targets, {"spatial": 1, "temporal": 1}, rank=32, trainable=True)
    assert {path: len(names) for path, names in targets.items()} == {"spatial": 96, "temporal": 170}
    counts = {path: sum(p.numel() for p in bank.slot_parameters(path, 1)) for path in targets}
    assert round(counts["spatial"] / 1e6, 1) == 8.8
    assert round(counts["temporal"] / 1e6, 1) == 12.5


def test_removing_the_bank_leaves_the_base_as_it_was(foundation, fill):
    latents, t, text = inputs(foundation)
    keys = list(foundation.denoiser.state_dict())
    with torch.no_grad():
        before = foundation.predict(latents, t, text)
        bank = foundation.add_bank({"spatial": 1, "temporal": 1}, rank=4)
        fill(bank, "temporal", 1)
        assert list(foundation.denoiser.state_dict()) == keys
        bank.current = Routing(temporal=Mix.of([[1]] * 3))
        bank.remove()
        assert torch.equal(before, foundation.predict(latents, t, text))


def test_a_smaller_rank_in_a_larger_slot_is_the_same_adapter(foundation, fill):
    latents, t, text = inputs(foundation)
    routing = Routing(temporal=Mix.of([[1]] * 3))
    with torch.no_grad():
        small = foundation.add_bank({"temporal": 1}, rank=2)
        tensors = fill(small, "temporal", 1)
        expected = foundation.predict(latents, t, text, routing)
        large = foundation.add_bank({"temporal": 1}, rank=8)
        fill(large, "temporal", 1, seed=99)  # what an earlier tenant left must not shine through
        large.write("temporal", 1, tensors)
        assert torch.allclose(foundation.predict(latents, t, text, routing), expected, atol=1e-6)
        large.write("temporal", 1, tensors, scale=0.0)
        assert torch.allclose(
            foundation.predict(latents, t, text, routing), foundation.predict(latents, t, text)
        )


@pytest.mark.parametrize(("rank", "dtype"), [(8, None), ("full", None), (8, torch.bfloat16)])
def test_a_packed_image_loads_as_what_would_have_been_written(foundation, fill, rank, dtype):
    """Padded, scaled, cast, layers it does not have as zeros; and one tensor is behind all layers of a path."""
    tensors = fill(foundation.add_bank({"temporal": 1}, rank=2), "temporal", 1)
    tensors.pop(next(iter(tensors)))
    bank = foundation.add_bank({"spatial": 1, "temporal": 3}, rank, dtype=dtype)
    fill(bank, "temporal", 2, seed=99)  # what an earlier tenant left must not shine through
    fill(bank, "temporal", 3, seed=98)
    bank.write("temporal", 1, tensors, scale=0.7)
    image = bank.pack("temporal", tensors, scale=0.7)
    assert image.is_contiguous()
    assert image.nbytes == bank.slot_bytes("temporal")
    before = bank.extract("temporal", 3)
    bank.load("temporal", 2, image)
    written, loaded = bank.extract("temporal", 1), bank.extract("temporal", 2)
    assert all(torch.equal(written[name][half], loaded[name][half]) for name in written for half in (0, 1))
    assert any(b.any() for _, b in loaded.values())
    after = bank.extract("temporal", 3)
    assert all(torch.equal(before[name][1], after[name][1]) for name in before), "the next slot is untouched"
    bank.double()
    bank.load("temporal", 2, bank.pack("temporal", {}))
    assert not any(b.any() for _, b in bank.extract("temporal", 2).values()), "views again, after a cast"


def test_requests_without_adapter_call_no_adapter_layer(foundation, fill, monkeypatch):
    bank = foundation.add_bank({"temporal": 1, "spatial": 1}, rank=4)
    calls = []
    for layer in bank.layers.values():
        monkeypatch.setattr(layer, "forward", lambda x, y, *rest: calls.append(x.shape) or y)
        monkeypatch.setattr(layer, "added_to", lambda weight, mix: calls.append(weight.shape) or weight)
    sample(foundation, [GenerationParams(prompt="a cat", steps=1)])
    assert not calls
    sample(
        foundation, [GenerationParams(prompt="a cat", steps=1, adapters=(SlotUse(path="temporal", slot=1),))]
    )
    assert len(calls) == len(foundation.targets["temporal"]), "the other path is not paid for either"


def test_an_adapter_equals_its_weights_merged(foundation, fill):
    latents, t, text = inputs(foundation)
    bank = foundation.add_bank({"temporal": 1}, rank=4)
    tensors = fill(bank, "temporal", 1)
    with torch.no_grad():
        routed = foundation.predict(latents, t, text, Routing(temporal=Mix.of([[1]] * 3, [[0.5]] * 3)))
        for name, (a, b) in tensors.items():
            foundation.denoiser.get_submodule(name).weight.add_(0.5 * b @ a)
        merged = foundation.predict(latents, t, text)
    assert torch.allclose(routed, merged, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("rank", [4, "full"])
def test_in_the_layer_and_beside_it_are_the_same(foundation, fill, rank, monkeypatch):
    """fp32 adds slots to each sample's weight, other types and few tokens run B A beside the layer."""
    latents, t, text = inputs(foundation)
    bank = foundation.add_bank({"spatial": 2, "temporal": 2}, rank=rank)
    for path in ("spatial", "temporal"):
        for slot in (1, 2):
            fill(bank, path, slot, seed=slot)
    mixes = {
        "spatial": Mix.of([[1], [2], []]),
        "temporal": Mix.of([[2, 1], [1], []], [[0.7, -0.3], [1.0], []]),
    }
    beside = []
    for layer in bank.layers.values():
        whole = layer.forward
        monkeypatch.setattr(layer, "forward", lambda *a, f=whole: beside.append(1) or f(*a))
    monkeypatch.setattr("models.lora.slots.pays", lambda *a: True)
    merged = foundation.predict(latents, t, text, Routing(**mixes))
    assert not beside
    monkeypatch.setattr("models.lora.slots.pays", lambda *a: False)
    apart = foundation.predict(latents, t, text, Routing(**mixes))
    assert len(beside) == len(bank.layers)
    assert (apart - foundation.predict(latents, t, text)).abs().max() > 1e-3
    torch.testing.assert_close(merged, apart, atol=1e-5, rtol=1e-5)


def test_dropout_drops_its_share_and_scales_the_rest_up():
    layer = LoraSlots(torch.nn.Linear(4, 33), 1, 2, True, torch.float32)
    layer.key = "temporal:one"
    bits = layer._bits(torch.empty(2, 501, 33), (1, 2), 0)
    assert not torch.equal(bits[0], bits[1])
    assert torch.equal(bits[1], layer._bits(torch.empty(1, 501, 33), (2,), 0)[0])
    assert not torch.equal(bits, layer._bits(torch.empty(2, 501, 33), (1, 2), 1))
    for dropout in (0.1, 0.5):
        keep = kept(bits, dropout, torch.float32)
        assert keep.shape == (2, 501, 33)
        assert keep.unique().tolist() == [0, 1]
        assert keep.mean(dim=(1, 2)).tolist() == pytest.approx([1 - dropout] * 2, abs=0.02)
        assert keep.mean(1).std() < 0.03  # alike everywhere: no column is spared


def test_dropout_depends_on_the_samples_seed_alone(foundation, fill):
    bank = foundation.add_bank({"temporal": 1}, rank=4)
    fill(bank, "temporal", 1, std=0.5)
    latents, t, text = inputs(foundation)

    def run(rows, seeds):
        routing = Routing(temporal=Mix.of([[1]] * len(rows)), dropout=0.5, seeds=seeds)
        with torch.no_grad():
            return foundation.predict(latents[rows], t[rows], text[rows], routing)

    assert torch.allclose(run([0, 1], (5, 6))[1], run([1], (6,))[0], atol=1e-4)
    assert not torch.allclose(run([1], (7,))[0], run([1], (6,))[0], atol=1e-3)


def test_initial_values_follow_the_method(foundation):
    bank = foundation.add_bank({"temporal": 1}, rank=8, trainable=True)
    downs, ups = zip(*bank.extract("temporal", 1).values(), strict=True)
    assert all(not up.any() for up in ups)
    assert abs(torch.cat([down.flatten() for down in downs]).std() - 1 / 8) < 0.01
    again = foundation.add_bank({"temporal": 3}, rank=8, trainable=True)
    for name, (down, _) in again.extract("temporal", 1).items():
        assert torch.equal(down, bank.extract("temporal", 1)[name][0])
