"""The dual path: which loss reaches which LoRA, what is shared, what is off."""

import pytest
import torch
from training_helpers import BUCKETS, plain_engine, random_clips

from training.config import make_config
from training.loop.draws import draw
from training.loop.step import Sample, collate, dual_path_losses


def samples_of(foundation, clips, indices, *, slots=None, step=0, **settings):
    like = clips[0]
    made = []
    for index in indices:
        drawn = draw(
            make_config({"seed": 0, **settings}),
            concept="c",
            step=step,
            index=index,
            global_batch=len(indices),
            clips=len(clips),
            latent_shape=tuple(like.latents_CFHW.shape),
            frames=len(like.frame_latents_FC1HW),
        )
        slot = drawn.clip + 1 if slots is None else slots[index]
        made.append(Sample(clips[drawn.clip], drawn, slot, 1))
    return made


def awake(engine, seed=5):
    """Up-projections away from zero, so that every LoRA matters and gets a gradient."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in engine.module.bank.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=g))


def gradients(engine, batch, spatial_weight=1.0, temporal_weight=1.0):
    bank = engine.module.bank
    bank.zero_grad()
    spatial_B, temporal_B = engine.losses(batch)
    (spatial_weight * spatial_B + temporal_weight * temporal_B).mean().backward()
    return {
        path: [None if p.grad is None else p.grad.clone() for p in bank.slot_parameters(path, 1)]
        for path in ("spatial", "temporal")
    }


@pytest.fixture
def ready(foundation):
    engine = plain_engine(foundation)
    awake(engine)
    clips = random_clips(foundation, 1)
    return engine, collate(samples_of(foundation, clips, [0]), "cpu")


def test_spatial_gradients_do_not_change_when_the_temporal_loss_is_scaled(ready):
    engine, batch = ready
    once, seven = gradients(engine, batch), gradients(engine, batch, temporal_weight=7)
    assert all(g.abs().max() > 0 for g in once["spatial"])
    for a, b in zip(once["spatial"], seven["spatial"], strict=True):
        assert torch.equal(a, b)
    for a, b in zip(once["temporal"], seven["temporal"], strict=True):
        assert a.abs().max() > 0
        torch.testing.assert_close(7 * a, b, rtol=1e-4, atol=1e-6)


def test_temporal_gradients_come_from_the_temporal_loss_alone(ready):
    engine, batch = ready
    assert all(g is None or not g.any() for g in gradients(engine, batch, temporal_weight=0)["temporal"])
    assert all(g is None or not g.any() for g in gradients(engine, batch, spatial_weight=0)["spatial"])


def test_the_spatial_lora_is_on_in_the_temporal_pass(ready):
    engine, batch = ready
    _, on = engine.losses(batch)
    engine.module.bank.clear("spatial", 1)
    _, off = engine.losses(batch)
    assert not torch.allclose(on, off)


def test_the_temporal_lora_is_off_in_the_spatial_pass(ready):
    engine, batch = ready
    before, _ = engine.losses(batch)
    engine.module.bank.clear("temporal", 1)
    after, _ = engine.losses(batch)
    assert torch.equal(before, after)


def test_gradients_are_the_same_with_gradient_checkpointing(ready):
    engine, batch = ready
    plain = gradients(engine, batch)
    engine.module.foundation.enable_gradient_checkpointing()
    recomputed = gradients(engine, batch)
    for path in plain:
        for a, b in zip(plain[path], recomputed[path], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_both_paths_share_noise_and_timestep(foundation, monkeypatch):
    engine = plain_engine(foundation)
    clips = random_clips(foundation, 1)
    batch = collate(samples_of(foundation, clips, [0]), "cpu")
    seen = []
    monkeypatch.setattr(
        type(foundation.noise), "add", lambda self, x0, eps, t: seen.append((eps, t)) or x0 + eps
    )
    engine.losses(batch)
    (spatial_eps, spatial_t), (temporal_eps, temporal_t) = seen
    assert torch.equal(spatial_t, temporal_t)
    assert spatial_eps.shape[2] == 1
    assert any(torch.equal(spatial_eps[:, :, 0], frame) for frame in temporal_eps.unbind(2))


def test_the_spatial_path_of_wan_sees_a_frame_that_was_encoded_alone():
    from models.load import load_foundation

    wan = load_foundation("tiny-random:wan", device="cpu", dtype="float32")
    clips = random_clips(wan, 1)
    samples = samples_of(wan, clips, [0])
    batch = collate(samples, "cpu")
    assert len(clips[0].frame_latents_FC1HW) == BUCKETS["wan"].frames
    drawn = samples[0].draw.frames[0]
    assert torch.equal(batch.frames.x0[0], clips[0].frame_latents_FC1HW[drawn.frame])
    assert batch.frames.x0.shape[2] == 1


def test_a_skipped_spatial_pass_leaves_the_spatial_lora_out_altogether(foundation):
    engine = plain_engine(foundation)
    awake(engine)
    clips = random_clips(foundation, 1)
    batch = collate(samples_of(foundation, clips, [0], skip_spatial=1.0), "cpu")
    found = gradients(engine, batch)
    assert all(g is None or not g.any() for g in found["spatial"])
    spatial_B, with_lora = engine.losses(batch)
    assert not spatial_B.any()
    engine.module.bank.clear("spatial", 1)
    assert torch.equal(with_lora, engine.losses(batch)[1])


def test_samples_of_one_forward_have_their_own_slots_and_losses(foundation):
    engine = plain_engine(foundation, clips=3)
    awake(engine)
    clips = random_clips(foundation, 3)
    samples = samples_of(foundation, clips, [0, 1, 2])
    together = engine.losses(collate(samples, "cpu"))
    for i, sample in enumerate(samples):
        alone = engine.losses(collate([sample], "cpu"))
        for whole, part in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[i : i + 1], part, rtol=1e-5, atol=1e-6)


def test_coupled_is_one_pass_in_which_both_loras_learn(foundation):
    engine = plain_engine(foundation, method="coupled")
    awake(engine)
    batch = collate(samples_of(foundation, random_clips(foundation, 1), [0], method="coupled"), "cpu")
    found = gradients(engine, batch)
    assert all(g.abs().max() > 0 for path in found for g in found[path])
    assert not engine.losses(batch)[0].any()


def test_no_debias_leaves_out_the_second_term(unet3d):
    engine = plain_engine(unet3d)
    batch = collate(samples_of(unet3d, random_clips(unet3d, 1), [0]), "cpu")

    def temporal(**settings):
        return dual_path_losses(unet3d, batch, make_config(settings)).temporal_B

    full, plain, beta0 = temporal(), temporal(method="no-debias"), temporal(beta=0.0)
    assert full > plain
    torch.testing.assert_close(beta0, 2 * plain)
    assert engine.module.bank is unet3d.bank


def test_the_loras_learn_in_fp32_on_a_bf16_base(foundation):
    foundation.denoiser.to(torch.bfloat16)
    engine = plain_engine(foundation)
    awake(engine)
    batch = collate(samples_of(foundation, random_clips(foundation, 1), [0]), "cpu")
    found = gradients(engine, batch)
    assert all(p.dtype == torch.float32 for p in engine.module.bank.parameters())
    assert all(g.dtype == torch.float32 and g.isfinite().all() for path in found for g in found[path])


def test_a_sample_without_its_caption_has_the_text_of_an_empty_one_in_the_temporal_pass_alone(foundation):
    clips = random_clips(foundation, 1)
    shown, hidden = (
        collate(samples_of(foundation, clips, [0], caption_dropout=share), "cpu") for share in (0.0, 1.0)
    )
    assert torch.equal(shown.clips.text_NLD[0], clips[0].text_LD)
    assert torch.equal(hidden.clips.text_NLD[0], foundation.encode_text([""])[0].float())
    assert not torch.equal(hidden.clips.text_NLD, shown.clips.text_NLD)
    assert torch.equal(hidden.frames.text_NLD, shown.frames.text_NLD)


def test_preservation_holds_what_frames_share_to_the_base_and_learns_what_differs(foundation):
    settings = {"appearance_preservation": 2.0, "dropout": 0.0}
    engine = plain_engine(foundation, **settings)
    batch = collate(samples_of(foundation, random_clips(foundation, 1), [0], **settings), "cpu")

    def told(**given):
        return dual_path_losses(foundation, batch, make_config(given)).temporal_B

    # A temporal LoRA that changes nothing yet predicts what the base does.
    plain, debiased = told(method="no-debias", dropout=0.0), told(beta=1.0, dropout=0.0)
    assert 0 < told(**settings) < plain < debiased
    torch.testing.assert_close(told(**settings), told(**{**settings, "appearance_preservation": 0.5}))
    awake(engine)
    assert told(**settings) > told(**{**settings, "appearance_preservation": 0.5})
    once, seven = gradients(engine, batch), gradients(engine, batch, temporal_weight=7)
    assert all(g.abs().max() > 0 for path in once for g in once[path])
    for a, b in zip(once["spatial"], seven["spatial"], strict=True):
        assert torch.equal(a, b)


TOKENS = {"appearance_tokens": 2, "spatial_lora": False, "appearance_share": 0.5, "steps": 4}


def tokens_of(engine):
    bank = engine.module.bank
    return dict(bank.named_slot_parameters("spatial", 1))["tokens"]


@pytest.fixture
def staged(foundation):
    """An engine with appearance tokens and no spatial LoRA; batches of its two stages."""
    engine = plain_engine(foundation, **TOKENS)
    awake(engine)
    clips = random_clips(foundation, 1)
    return engine, *(
        collate(samples_of(foundation, clips, [0], step=step, **TOKENS), "cpu") for step in (0, 2)
    )


def test_without_a_spatial_lora_the_tokens_are_all_that_a_spatial_slot_has(staged):
    engine, _, _ = staged
    assert [name for name, _ in engine.module.bank.named_slot_parameters("spatial", 1)] == ["tokens"]
    assert engine.module.bank.extract("spatial", 1) == {}


def test_the_appearance_stage_teaches_the_tokens_alone(staged):
    engine, appearance, _ = staged
    found = gradients(engine, appearance)
    assert all(g.abs().max() > 0 for g in found["spatial"])
    assert all(g is None or not g.any() for g in found["temporal"])
    assert len(appearance.frames.sample) == 4
    assert appearance.clips is None
    assert not engine.losses(appearance)[1].any()


def test_the_motion_stage_uses_the_tokens_and_teaches_the_temporal_lora_alone(staged):
    engine, _, motion = staged
    found = gradients(engine, motion)
    assert all(g is None or not g.any() for g in found["spatial"])
    assert all(g.abs().max() > 0 for g in found["temporal"])
    _, told = engine.losses(motion)
    with torch.no_grad():
        tokens_of(engine).zero_()
    assert not torch.allclose(told, engine.losses(motion)[1])


def test_tokens_change_the_end_of_the_text_and_only_for_slots_that_have_them(staged):
    engine, _, _ = staged
    bank, text = engine.module.bank, torch.randn(3, 7, engine.module.foundation.text_width)
    told = bank.with_tokens(text, [1, 0, 1])
    assert torch.equal(told[1], text[1])
    assert torch.equal(told[:, :5], text[:, :5])
    assert not torch.allclose(told[0, 5:], text[0, 5:])
    with torch.no_grad():
        bank.clear("spatial", 1)
    assert torch.equal(bank.with_tokens(text, [1, 0, 1]), text)


def test_token_gradients_are_the_same_with_gradient_checkpointing(staged):
    engine, appearance, motion = staged
    for batch in (appearance, motion):
        before = gradients(engine, batch)
        undo = engine.module.foundation.enable_gradient_checkpointing()
        recomputed = gradients(engine, batch)
        undo()
        for path in before:
            for a, b in zip(before[path], recomputed[path], strict=True):
                assert (a is None) == (b is None)
                if a is not None:
                    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_samples_of_several_stages_and_frames_have_their_own_losses(foundation):
    """What a pack does whose members are not at the same step."""
    engine = plain_engine(foundation, clips=3, **{**TOKENS, "spatial_lora": True})
    awake(engine)
    clips = random_clips(foundation, 3)
    samples = [
        one
        for step, settings in ((0, TOKENS), (2, TOKENS), (0, {}))
        for one in samples_of(foundation, clips, [0], step=step, **settings)
    ]
    together = engine.losses(collate(samples, "cpu"))
    for i, sample in enumerate(samples):
        alone = engine.losses(collate([sample], "cpu"))
        for whole, part in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[i : i + 1], part, rtol=1e-5, atol=1e-6)
