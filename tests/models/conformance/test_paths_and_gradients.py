"""The two paths: what each changes, where its gradients go, with and without gradient checkpointing."""

from dataclasses import replace

import torch
from torch.nn.functional import mse_loss

from models.lora.routing import Mix, Routing


def inputs(foundation, batch=3, frames=None):
    bucket = foundation.defaults.bucket
    shape = foundation.latent_shape(replace(bucket, frames=frames or bucket.frames))
    latents = torch.randn((batch, *shape), generator=torch.Generator().manual_seed(0))
    t = foundation.noise.timesteps(torch.linspace(0.2, 0.9, batch))
    return latents, t, foundation.encode_text(["a cat", "a red dog", "rain"][:batch])


def test_a_mixed_batch_equals_each_sample_alone(foundation, fill):
    bank = foundation.add_bank({"spatial": 2, "temporal": 2}, rank=4)
    for path in ("spatial", "temporal"):
        for slot in (1, 2):
            fill(bank, path, slot, seed=10 * slot)
    latents, t, text = inputs(foundation)
    rows = [([1], [0.7]), ([2, 1], [1.0, -0.4]), ([], [])]
    mixed = Routing(
        spatial=Mix.of([[2], [], [1]]), temporal=Mix.of([slots for slots, _ in rows], [s for _, s in rows])
    )
    with torch.no_grad():
        together = foundation.predict(latents, t, text, mixed)
        assert together.shape == latents.shape
        for i, (slots, scales) in enumerate(rows):
            alone = Routing(spatial=Mix.of([[[2], [], [1]][i]]), temporal=Mix.of([slots], [scales]))
            one = foundation.predict(latents[i : i + 1], t[i : i + 1], text[i : i + 1], alone)
            assert torch.allclose(one[0], together[i], atol=1e-5, rtol=1e-5)


def test_each_path_changes_the_output_and_slot_zero_does_not(foundation, fill):
    latents, t, text = inputs(foundation)
    bank = foundation.add_bank({"spatial": 1, "temporal": 1}, rank=4)
    for path in ("spatial", "temporal"):
        fill(bank, path, 1)
    with torch.no_grad():
        base = foundation.predict(latents, t, text)
        zeros = foundation.predict(latents, t, text, Routing(temporal=Mix.of([[0]] * 3)))
        moved = [
            foundation.predict(latents, t, text, Routing(**{path: Mix.of([[1]] * 3)}))
            for path in ("spatial", "temporal")
        ]
    assert torch.equal(base, zeros)
    assert all((one - base).abs().max() > 1e-3 for one in moved)


def test_a_single_frame_runs_no_layer_that_is_only_temporal(foundation):
    only = set(foundation.targets["temporal"]) - set(foundation.targets["spatial"])
    assert not only or not set(foundation.targets["temporal"]) & set(foundation.targets["spatial"]), (
        "the paths are the same layers, or have none in common"
    )
    ran = set()
    hooks = [
        foundation.denoiser.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.add(name))
        for names in foundation.targets.values()
        for name in names
    ]
    with torch.no_grad():
        foundation.predict(*inputs(foundation, frames=1))
        assert ran == set(foundation.targets["spatial"])
        foundation.predict(*inputs(foundation))
    for hook in hooks:
        hook.remove()
    assert ran == only | set(foundation.targets["spatial"])


def gradients(bank, path, slot=1):
    return [parameter.grad for parameter in bank.slot_parameters(path, slot)]


def awake(bank):
    """Slots begin at zero, where A has no gradient: move them."""
    with torch.no_grad():
        for number, parameter in enumerate(bank.parameters()):
            parameter.add_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.05
            )


def test_a_clip_teaches_the_temporal_slots_and_a_frame_the_spatial_ones(foundation):
    bank = foundation.add_bank({"spatial": 2, "temporal": 1}, rank=4, trainable=True)
    awake(bank)
    routing = Routing(spatial=Mix.of([[1]] * 3, frozen=True), temporal=Mix.of([[1]] * 3))
    foundation.predict(*inputs(foundation), routing).square().mean().backward()
    assert all(gradient is None for gradient in gradients(bank, "spatial"))
    assert all(gradient.abs().max() > 0 for gradient in gradients(bank, "temporal"))
    bank.zero_grad()
    frames = inputs(foundation, frames=1)
    foundation.predict(*frames, Routing(spatial=Mix.of([[1]] * 3))).square().mean().backward()
    found = [gradient.abs().max() for gradient in gradients(bank, "spatial")]
    assert sum(bool(gradient > 0) for gradient in found) >= len(found) / 2
    assert all(gradient is None for gradient in gradients(bank, "temporal"))
    assert all(gradient is None for gradient in gradients(bank, "spatial", 2)), "a slot that no sample uses"
    assert all(parameter.grad is None for parameter in foundation.denoiser.parameters())


def training_gradients(foundation, *, checkpointing):
    bank = foundation.add_bank({"spatial": 2, "temporal": 1}, rank=4, trainable=True, seed=3)
    awake(bank)
    kind = {"dropout": 0.1, "seeds": (11, 12)}
    with foundation.gradient_checkpointing(checkpointing):
        one_frame = foundation.predict(
            *inputs(foundation, 2, frames=1), Routing(spatial=Mix.of([[1], [2]]), **kind)
        )
        both = Routing(spatial=Mix.of([[1], [2]], frozen=True), temporal=Mix.of([[1], [1]]), **kind)
        clip = foundation.predict(*inputs(foundation, 2), both)
        # One backward for two forwards: the first is recomputed after the second has run with other adapters.
        (mse_loss(one_frame, torch.zeros_like(one_frame)) + mse_loss(clip, torch.ones_like(clip))).backward()
    return [parameter.grad for parameter in bank.parameters()]


def test_gradients_are_the_same_with_gradient_checkpointing(foundation):
    plain = training_gradients(foundation, checkpointing=False)
    recomputed = training_gradients(foundation, checkpointing=True)
    for one, other in zip(plain, recomputed, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-7, rtol=1e-5)
    assert sum(gradient.abs().sum() for gradient in plain if gradient is not None) > 0
