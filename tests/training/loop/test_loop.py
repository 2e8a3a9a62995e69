"""A run: which slots move, that it repeats, and that it goes on where it stopped."""

import pytest
import torch
from training_helpers import parameters, random_clips, save, solo

from infra.errors import UserError
from training.config import make_config
from training.loop.checkpoint import MemberState
from training.loop.draws import clips_of_step
from training.loop.step import collate


def test_training_lowers_the_loss_of_the_same_draws(foundation):
    clips = random_clips(foundation, 1)

    def loss_of_the_first_steps(run):
        total = 0.0
        for step in range(10):
            samples = [run.member.sample(step, 0, run.engine.place)]
            with torch.no_grad():
                spatial_B, temporal_B = run.engine.losses(collate(samples, "cpu"))
            total += float(spatial_B + temporal_B)
        return total

    with solo(foundation, clips, steps=40, dropout=0.0) as run:
        before = loss_of_the_first_steps(run)
        reports = list(run.train())
        assert [r.step for r in reports] == list(range(1, 41))
        assert loss_of_the_first_steps(run) < 0.95 * before


def test_only_the_clips_of_a_step_move_their_spatial_slots(foundation):
    with solo(foundation, random_clips(foundation, 3), steps=6, weight_decay=0.1) as run:
        before = parameters(run)
        for report in run.train():
            after = parameters(run)
            seen = set(clips_of_step(0, "c", report.step - 1, 3, run.engine.place))
            for slot in (1, 2, 3):
                moved = any(
                    not torch.equal(after[key], before[key])
                    for key in after
                    if key.startswith(f"spatial/{slot}/")
                )
                assert moved == (slot - 1 in seen)
            before = after


def trained(foundation, clips, **settings):
    """(losses, parameters) of a run to its end."""
    with solo(foundation, clips, **settings) as run:
        losses = [report.loss for report in run.train()]
        return losses, parameters(run)


def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(foundation):
    clips = random_clips(foundation, 2)

    def final(**settings):
        with solo(foundation, clips, **settings) as run:
            for _ in run.train():
                torch.randn(3)  # what others draw meanwhile does not matter
            return parameters(run)

    first, again, other = final(), final(), final(seed=1)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_continued_run_ends_in_the_same_bits(foundation, tmp_path, stop):
    settings = {"steps": 5, "schedule": "cosine", "warmup_steps": 1, "skip_spatial": 0.3}
    clips = random_clips(foundation, 2)
    losses, expected = trained(foundation, clips, **settings)
    with solo(foundation, clips, **settings) as first:
        for report in first.train():
            if report.step == stop:
                save(first, tmp_path)
                break
    rest, found = trained(foundation, clips, state=MemberState.read(tmp_path), **settings)
    assert rest == losses[stop:]
    assert all(torch.equal(found[k], expected[k]) for k in expected)


def test_a_run_that_has_ended_has_nothing_left_to_do(unet3d):
    clips = random_clips(unet3d, 1)
    with solo(unet3d, clips) as run:
        list(run.train())
        state = run.state("c")
    with solo(unet3d, clips, state) as again:
        assert list(again.train()) == []
        ended = again.state("c").tensors
    assert all(torch.equal(ended[key], tensor) for key, tensor in state.tensors.items())


def test_a_step_is_the_same_in_one_forward_or_accumulated(unet3d):
    clips = random_clips(unet3d, 4)
    # A large epsilon: AdamW's first steps would otherwise blow rounding up to the size of a step.
    losses, batched = trained(unet3d, clips, steps=2, adam_epsilon=1e-3, batch_size=4)
    accumulated_losses, accumulated = trained(
        unet3d, clips, steps=2, adam_epsilon=1e-3, gradient_accumulation=4
    )
    assert losses == pytest.approx(accumulated_losses, rel=1e-5)
    for key in batched:
        torch.testing.assert_close(batched[key], accumulated[key], rtol=1e-4, atol=1e-6)


def test_a_diverging_run_stops_and_says_so(unet3d):
    clips = random_clips(unet3d, 1)
    with solo(unet3d, clips) as run:
        clips[0].latents_CFHW.fill_(float("inf"))
        with pytest.raises(UserError, match=r"loss became (nan|inf) at step 1; lower --learning-rate"):
            list(run.train())


def test_a_checkpoint_of_another_zero_stage_is_refused(unet3d, tmp_path):
    with solo(unet3d, random_clips(unet3d, 1)) as run:
        save(run, tmp_path, zero=2)
    with pytest.raises(UserError, match="ZeRO stage 2, not 0"):
        MemberState.read(tmp_path).check_workers(0, 1)


def test_a_checkpoints_adapter_is_the_banks(foundation, tmp_path):
    with solo(foundation, random_clips(foundation, 1)) as run:
        list(run.train())
        save(run, tmp_path)
        extracted = run.tensors("c")["temporal"]
    read = MemberState.read(tmp_path, moments=False).adapter("temporal")
    assert read.keys() == extracted.keys()
    assert all(torch.equal(read[k][i], extracted[k][i]) for k in read for i in (0, 1))


def test_one_spatial_slot_serves_all_clips_when_asked(unet3d):
    with solo(unet3d, random_clips(unet3d, 3), single_spatial=True) as run:
        assert run.engine.module.bank.slots == {"spatial": 1, "temporal": 1}
        assert len(list(run.train())) == make_config({"steps": 3}).steps
