"""The loop: which slots move, that it repeats, and that it goes on where it stopped."""

import pytest
import torch
from training_helpers import plain_engine, random_clips

from infra.errors import UserError
from training import checkpoint
from training.config import make_config
from training.draws import clips_of_step
from training.loop import sample_of, train
from training.step import collate


def parameters(engine):
    return {key: p.detach().clone() for key, p in checkpoint._named(engine.module.bank)}


def test_training_lowers_the_loss_of_the_same_draws(foundation):
    engine = plain_engine(foundation, steps=40, dropout=0.0)
    clips = random_clips(foundation, 1)

    def loss_of_the_first_steps():
        total = 0.0
        for step in range(10):
            samples = [sample_of(engine.module.config, "c", step, 0, clips, engine.place.global_batch)]
            with torch.no_grad():
                spatial_B, temporal_B = engine.losses(collate(samples, "cpu"))
            total += float(spatial_B + temporal_B)
        return total

    before = loss_of_the_first_steps()
    reports = list(train(engine, "c", clips))
    assert [r.step for r in reports] == list(range(1, 41))
    assert loss_of_the_first_steps() < 0.95 * before


def test_only_the_clips_of_a_step_move_their_spatial_slots(foundation):
    clips = random_clips(foundation, 3)
    engine = plain_engine(foundation, clips=3, steps=6, weight_decay=0.1)
    before = parameters(engine)
    for report in train(engine, "c", clips):
        after = parameters(engine)
        seen = set(clips_of_step(0, "c", report.step - 1, 3, engine.place))
        for slot in (1, 2, 3):
            moved = any(
                not torch.equal(after[key], before[key])
                for key in after
                if key.startswith(f"spatial/{slot}/")
            )
            assert moved == (slot - 1 in seen)
        before = after


def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(foundation):
    clips = random_clips(foundation, 2)

    def final(**settings):
        engine = plain_engine(foundation, clips=2, **settings)
        for _ in train(engine, "c", clips):
            torch.randn(3)  # what others draw meanwhile does not matter
        return parameters(engine)

    first, again, other = final(), final(), final(seed=1)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_continued_run_ends_in_the_same_bits(foundation, tmp_path, stop):
    settings = {"steps": 5, "schedule": "cosine", "warmup_steps": 1, "skip_spatial": 0.3}
    clips = random_clips(foundation, 2)
    whole = plain_engine(foundation, clips=2, **settings)
    losses = [r.loss for r in train(whole, "c", clips)]
    expected = parameters(whole)

    first = plain_engine(foundation, clips=2, **settings)
    for report in train(first, "c", clips):
        if report.step == stop:
            checkpoint.save(tmp_path, first, {"step": stop, "zero": 0, "workers": 1})
            break
    second = plain_engine(foundation, clips=2, **settings)
    position = checkpoint.restore(tmp_path, second)
    rest = [r.loss for r in train(second, "c", clips, start=position["step"])]
    assert rest == losses[stop:]
    found = parameters(second)
    assert all(torch.equal(found[k], expected[k]) for k in expected)


def test_a_step_is_the_same_in_one_forward_or_accumulated(unet3d):
    clips = random_clips(unet3d, 4)

    def final(**settings):
        # A large epsilon: AdamW's first steps would otherwise blow rounding up to the size of a step.
        engine = plain_engine(unet3d, clips=4, steps=2, adam_epsilon=1e-3, **settings)
        return [r.loss for r in train(engine, "c", clips)], parameters(engine)

    losses, batched = final(batch_size=4)
    accumulated_losses, accumulated = final(gradient_accumulation=4)
    assert losses == pytest.approx(accumulated_losses, rel=1e-5)
    for key in batched:
        torch.testing.assert_close(batched[key], accumulated[key], rtol=1e-4, atol=1e-6)


def test_a_diverging_run_stops_and_says_so(unet3d):
    clips = random_clips(unet3d, 1)
    clips[0].latents_CFHW.fill_(float("inf"))
    with pytest.raises(UserError, match=r"loss became (nan|inf) at step 1; lower --learning-rate"):
        list(train(plain_engine(unet3d), "c", clips))


def test_a_checkpoint_of_another_zero_stage_is_refused(unet3d, tmp_path):
    engine = plain_engine(unet3d)
    checkpoint.save(tmp_path, engine, {"step": 1, "zero": 2, "workers": 1})
    with pytest.raises(UserError, match="ZeRO stage 2, not 0"):
        checkpoint.restore(tmp_path, engine)


def test_a_checkpoints_adapter_is_the_banks(foundation, tmp_path):
    engine = plain_engine(foundation)
    list(train(engine, "c", random_clips(foundation, 1)))
    checkpoint.save(tmp_path, engine, {"step": 3, "zero": 0, "workers": 1})
    extracted = engine.module.bank.extract("temporal", 1)
    read = checkpoint.read_slot(tmp_path, "temporal", 1)
    assert read.keys() == extracted.keys()
    assert all(torch.equal(read[k][i], extracted[k][i]) for k in read for i in (0, 1))


def test_one_spatial_slot_serves_all_clips_when_asked(unet3d):
    clips = random_clips(unet3d, 3)
    engine = plain_engine(unet3d, clips=3, single_spatial=True)
    assert engine.module.bank.slots == {"spatial": 1, "temporal": 1}
    assert len(list(train(engine, "c", clips))) == make_config({"steps": 3}).steps
