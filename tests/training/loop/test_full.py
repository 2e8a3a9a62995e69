"""Method full: the temporal layers themselves are fine-tuned with the plain loss, exactly, in the same loop."""

import pytest
import torch
from torch.func import functional_call
from training_helpers import plain_engine, random_clips, save, solo

from infra.errors import UserError
from training.config import make_config, sampled_paths
from training.loop.checkpoint import MemberState
from training.loop.losses import mse
from training.loop.member import Member
from training.loop.step import collate


def full_engine(foundation, clips=1, **settings):
    return plain_engine(foundation, clips=clips, method="full", **settings)


def full_run(foundation, clips, state=None, **settings):
    return solo(foundation, clips, state, method="full", **settings)


def batch_of(engine, clips, step):
    one = Member("c", "c", engine.module.config, clips)
    return collate([one.sample(step, index, engine.place) for index in engine.place.indices(0)], "cpu")


def changes(engine):
    """The change of each temporal layer's weight, as trained."""
    bank = engine.module.bank
    return dict(zip(bank.targets["temporal"], bank.slot_parameters("temporal", 1), strict=True))


def plain_loss(foundation, batch, weights):
    """The plain loss of the denoiser with other weights, without a bank: what fine-tuning computes."""
    clips = batch.clips
    t_B = foundation.noise.timesteps(clips.level_N)
    noisy = foundation.noise.add(clips.x0, clips.noise, t_B)
    call = functional_call(
        foundation.denoiser,
        {f"{name}.weight": weight for name, weight in weights.items()},
        (noisy, t_B),
        {"encoder_hidden_states": clips.text_NLD},
    )
    return mse(call.sample, foundation.noise.target(clips.x0, clips.noise, t_B)).mean()


def weights_of(foundation):
    return {
        name: foundation.denoiser.get_submodule(name).weight.detach().clone()
        for name in foundation.targets["temporal"]
    }


def test_the_gradient_is_that_of_the_real_weights(foundation):
    engine = full_engine(foundation, clips=2, batch_size=2)
    with torch.no_grad():
        for number, change in enumerate(changes(engine).values()):
            change.add_(0.05 * torch.randn(change.shape, generator=torch.Generator().manual_seed(number)))
    batch = batch_of(engine, random_clips(foundation, 2), step=0)
    spatial_B, temporal_B = engine.losses(batch)
    temporal_B.mean().backward()
    assert not spatial_B.any()
    base, learnt = weights_of(foundation), changes(engine)
    real = {name: (base[name] + learnt[name].detach()).requires_grad_() for name in base}
    loss = plain_loss(foundation, batch, real)
    torch.testing.assert_close(loss, temporal_B.mean(), rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(loss, list(real.values()))
    for change, gradient in zip(learnt.values(), gradients, strict=True):
        assert gradient.abs().max() > 0
        torch.testing.assert_close(change.grad, gradient, rtol=1e-3, atol=1e-6)


def test_twenty_steps_are_twenty_steps_of_adamw_on_the_weights(unet3d):
    clips = random_clips(unet3d, 2)
    settings = {"steps": 20, "learning_rate": 2e-3, "weight_decay": 0.1, "max_gradient_norm": 0.0}
    # A large epsilon: AdamW's first steps would otherwise blow rounding up to the size of a step.
    with full_run(unet3d, clips, adam_epsilon=1e-3, **settings) as run:
        losses = [report.loss for report in run.train()]
        trained = {name: change.detach().clone() for name, change in changes(run.engine).items()}

    base = weights_of(unet3d)
    deltas = {name: torch.zeros_like(weight, requires_grad=True) for name, weight in base.items()}
    optimizer = torch.optim.AdamW(deltas.values(), lr=2e-3, weight_decay=0.1, eps=1e-3)
    engine, expected = full_engine(unet3d, clips=2, **settings), []
    for step in range(20):
        batch = batch_of(engine, clips, step)
        loss = plain_loss(unet3d, batch, {name: base[name] + deltas[name] for name in base})
        expected.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses == pytest.approx(expected, rel=1e-5)
    for name, change in trained.items():
        assert change.abs().max() > 1e-4
        torch.testing.assert_close(change, deltas[name].detach(), rtol=1e-3, atol=1e-6)


def test_training_lowers_the_loss_and_moves_temporal_layers_only(foundation):
    clips = random_clips(foundation, 1)
    before = {key: tensor.clone() for key, tensor in foundation.denoiser.state_dict().items()}

    def loss_of_the_first_steps(run):
        engine = run.engine
        with torch.no_grad():
            draws = [batch_of(plain, clips, step) for step in range(10)]
            return sum(float(engine.losses(batch)[1]) for batch in draws)

    plain = full_engine(foundation, steps=40, learning_rate=3e-3)
    with full_run(foundation, clips, steps=40, learning_rate=3e-3) as run:
        first = loss_of_the_first_steps(run)
        reports = list(run.train())
        assert all(report.spatial_loss == 0 and report.loss == report.temporal_loss for report in reports)
        assert loss_of_the_first_steps(run) < 0.95 * first
        assert run.engine.module.bank.slots == {"spatial": 0, "temporal": 1}
        assert all(b.any() for _, b in run.tensors("c")["temporal"].values())
    assert all(torch.equal(tensor, before[key]) for key, tensor in foundation.denoiser.state_dict().items())


def test_the_rank_and_the_dropout_are_of_no_effect(unet3d):
    clips = random_clips(unet3d, 1)

    def final(**settings):
        with full_run(unet3d, clips, **settings) as run:
            list(run.train())
            return {name: change.detach().clone() for name, change in changes(run.engine).items()}

    one, other = final(rank=4, dropout=0.0), final(rank=8, dropout=0.5)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("stop", [2])
def test_a_continued_run_ends_in_the_same_bits(foundation, tmp_path, stop):
    clips = random_clips(foundation, 2)
    with full_run(foundation, clips, steps=4) as whole:
        losses = [report.loss for report in whole.train()]
        expected = whole.tensors("c")["temporal"]
    with full_run(foundation, clips, steps=4) as first:
        for report in first.train():
            if report.step == stop:
                save(first, tmp_path)
                break
    with full_run(foundation, clips, MemberState.read(tmp_path), steps=4) as second:
        assert [report.loss for report in second.train()] == losses[stop:]
        save(second, tmp_path)
        ended = second.tensors("c")["temporal"]
    for found in (ended, MemberState.read(tmp_path).adapter("temporal")):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name][i], expected[name][i]) for name in found for i in (0, 1))


def test_gradient_checkpointing_gives_the_same_gradients(unet3d):
    engine = full_engine(unet3d)
    batch = batch_of(engine, random_clips(unet3d, 1), step=0)

    def gradients():
        engine.module.bank.zero_grad()
        engine.losses(batch)[1].mean().backward()
        return [p.grad.clone() for p in engine.module.bank.parameters()]

    plain = gradients()
    unet3d.enable_gradient_checkpointing()
    for a, b in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", ["coupled", "full"])
def test_there_is_no_spatial_pass_to_skip(method):
    for given in ({"skip_spatial": 0.2}, {"appearance_tokens": 8}, {"spatial_lora": False}):
        with pytest.raises(
            UserError, match=f"method {method} has no spatial pass; leave {next(iter(given))} out"
        ):
            make_config({"method": method, **given})


def test_generation_uses_the_temporal_path_but_for_a_coupled_pair():
    paths = {
        method: sampled_paths(make_config({"method": method}))
        for method in ("dual", "motiondirector", "no-debias", "coupled", "full")
    }
    assert paths.pop("coupled") == ("spatial", "temporal")
    assert set(paths.values()) == {("temporal",)}
