"""The sprite foundation's pretraining: small runs of the real program."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, TextToVideoSDPipeline

from datasets.sprites.captions import vocabulary
from datasets.sprites.motions import DIRECTIONS, KNOWN, SPEEDS
from infra.errors import UserError
from training.pretraining.common import Average, Schedule, load_state
from training.pretraining.curriculum import STAGES, Middle, Stage, draw_stage, stage_at
from training.pretraining.denoiser import (
    Recipe,
    build_parts,
    draw_batch,
    load_parts,
    save_pipeline,
    stage_of,
    train_unet,
)
from training.pretraining.muon import MuonWithAdamW, orthogonalised
from training.pretraining.pool import ClipPool
from training.pretraining.tokenizer import MAX_LENGTH, write_tokenizer
from training.pretraining.vae import build_vae, frame_batch, standardised, train_vae

FIRST = Stage(1, tuple(DIRECTIONS)[:4], ("red",), ("gray",), paraphrases=False, noise_bias=0.12)
TINY = Recipe(
    steps=4, image_steps=1, curriculum=(FIRST,), image_share=0.3, clips=1, images=2, pool=4, fresh=1, seed=5
)


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_the_vae_stage_resumes_bit_for_bit(tmp_path):
    whole = train_vae(tmp_path / "whole", steps=4, batch=2, every=2)
    train_vae(tmp_path / "cut", steps=4, batch=2, every=2, stop=2)
    resumed = train_vae(tmp_path / "cut", steps=4, batch=2, every=2)
    assert torch.equal(weights(whole), weights(resumed))
    reloaded = AutoencoderKL.from_pretrained(tmp_path / "cut" / "vae")
    assert torch.equal(weights(reloaded), weights(whole))
    frames = torch.from_numpy(frame_batch(np.random.default_rng(0), 64)).movedim(-1, 1) / 127.5 - 1
    latents = reloaded.encode(frames).latent_dist.mean * reloaded.config.scaling_factor
    assert latents.shape == (64, 4, 16, 16)
    assert latents.mean((0, 2, 3)).tolist() == pytest.approx([0] * 4, abs=0.4)
    assert latents.std((0, 2, 3)).tolist() == pytest.approx([1] * 4, abs=0.4)


def test_standardising_the_latents_leaves_what_is_decoded():
    vae = build_vae(3).eval()
    x = torch.from_numpy(frame_batch(np.random.default_rng(1), 2)).movedim(-1, 1) / 127.5 - 1
    changed = standardised(vae, "cpu")
    before = vae.decode(vae.encode(x).latent_dist.mean).sample
    after = changed.decode(changed.encode(x).latent_dist.mean).sample
    assert torch.allclose(before, after, atol=1e-4)


def test_the_decoder_stage_leaves_the_latents_as_they_are_and_resumes_bit_for_bit(tmp_path):
    for name in ("whole", "cut"):
        before = train_vae(tmp_path / name, steps=1, batch=2)
    whole = train_vae(tmp_path / "whole", steps=3, batch=2, every=1, decoder_only=True)
    train_vae(tmp_path / "cut", steps=3, batch=2, every=1, decoder_only=True, stop=1)
    resumed = train_vae(tmp_path / "cut", steps=3, batch=2, every=1, decoder_only=True)
    assert torch.equal(weights(whole), weights(resumed))
    assert torch.equal(weights(before.encoder), weights(resumed.encoder))
    assert torch.equal(weights(before.quant_conv), weights(resumed.quant_conv))
    assert not torch.equal(weights(before.decoder), weights(resumed.decoder))


def test_the_unet_stage_resumes_bit_for_bit_and_the_average_is_a_stock_pipeline(tmp_path):
    def run(name, stop=None):
        parts = build_parts(tmp_path / name, build_vae(), seed=1)
        return train_unet(tmp_path / name, TINY, parts, every=2, stop=stop)

    whole = run("whole")
    run("cut", stop=2)
    resumed = run("cut")
    assert torch.equal(weights(whole.unet), weights(resumed.unet))
    assert torch.equal(weights(whole.text_encoder), weights(resumed.text_encoder))
    pipeline = TextToVideoSDPipeline.from_pretrained(tmp_path / "cut" / "pipeline", dtype=torch.float32)
    assert torch.allclose(weights(pipeline.unet), weights(whole.unet), atol=1e-3)  # released in fp16
    frames = pipeline("a red star", num_frames=8, num_inference_steps=2, output_type="np").frames
    assert frames.shape == (1, 8, 64, 64, 3)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.scheduler.config.timestep_spacing == "trailing"


def test_training_goes_on_from_a_released_checkpoint(tmp_path):
    parts = build_parts(tmp_path / "first", build_vae(), seed=2)
    save_pipeline(parts, tmp_path / "release")
    again = load_parts(tmp_path / "release")
    before = weights(again.unet).clone()
    assert torch.allclose(before, weights(parts.unet), atol=1e-3)
    train_unet(tmp_path / "more", replace(TINY, steps=1, image_steps=0, curriculum=()), again, every=1)
    assert not torch.equal(weights(again.unet), before)


def test_a_state_of_another_shape_is_refused(tmp_path):
    train_vae(tmp_path, steps=1, batch=1)
    parts = build_parts(tmp_path, build_vae())
    modules = {"unet": parts.unet, "text_encoder": parts.text_encoder}
    optimizer = torch.optim.AdamW(parts.unet.parameters())
    with pytest.raises(UserError, match="not a state of this pretraining"):
        load_state(tmp_path / "vae_state.pt", modules, optimizer, Average([parts.unet], 0.9), "cpu")


def flat(videos):
    """Instead of an autoencoder: the mean colour of each frame, [B, 3, F, 1, 1]."""
    return torch.from_numpy(videos.mean((2, 3))).float().transpose(1, 2)[..., None, None]


def pool(**given):
    return ClipPool(flat, seed=0, frames=8, side=16, **given)


def test_the_window_of_a_step_does_not_depend_on_the_steps_before():
    walked, jumped = pool(size=5, fresh=2), pool(size=5, fresh=2)
    for step in range(8):
        walked.advance(step)
    jumped.advance(7)
    one, said = walked.draw(np.random.default_rng(3), 4, single=False)
    two, also_said = jumped.draw(np.random.default_rng(3), 4, single=False)
    assert torch.equal(one, two)
    assert said == also_said


def test_each_step_brings_fresh_clips_and_drops_the_oldest():
    window = pool(size=6, fresh=2)

    def clips():
        latents, _ = window.draw(np.random.default_rng(0), 6, single=False)
        return {tuple(clip.flatten().tolist()) for clip in latents}

    window.advance(0)
    first = clips()
    window.advance(1)
    second = clips()
    assert len(first) == len(second) == 6
    assert len(first & second) == 4
    window.advance(3)
    assert not first & clips()


def test_batches_follow_from_seed_and_step_alone():
    window = pool(size=8, fresh=1)
    window.advance(9)
    recipe = Recipe(clips=3, image_steps=0, image_share=0.0)

    def batch(seed):
        return draw_batch(window, np.random.default_rng(seed), recipe, 9)

    (latents, captions), (again, same), (_, others) = batch(1), batch(1), batch(2)
    assert torch.equal(latents, again)
    assert captions == same
    assert latents.shape == (3, 3, 8, 1, 1)
    assert others != captions


def test_the_first_steps_see_single_frames():
    window = pool(size=8, fresh=1)
    window.advance(0)
    latents, _ = draw_batch(window, np.random.default_rng(0), Recipe(image_steps=10, images=5), step=9)
    assert latents.shape == (5, 3, 1, 1, 1)


def test_a_run_that_goes_on_keeps_its_tokenizer(tmp_path):
    write_tokenizer(tmp_path / "tokenizer")
    file = tmp_path / "tokenizer" / "tokenizer.json"
    told = json.loads(file.read_text())
    merges = told["model"]["merges"]
    merges[:2] = merges[1::-1]  # as another training of it might have them
    file.write_text(json.dumps(told))
    parts = build_parts(tmp_path, build_vae())
    parts.tokenizer.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "tokenizer.json").read_text())["model"]["merges"] == merges


def test_the_lessons_stages_follow_each_other_and_end():
    first, second = FIRST, STAGES[1]
    curriculum = (first, second)
    assert [stage_at(step, curriculum) for step in (-1, 0, 1, second.steps, second.steps + 1)] == [
        None,
        first,
        second,
        second,
        None,
    ]


def test_a_share_of_the_later_steps_stays_with_the_lessons_last_stage():
    recipe = replace(TINY, curriculum=(FIRST, STAGES[2]), curriculum_share=0.25)
    begin = recipe.image_steps + FIRST.steps + STAGES[2].steps
    rng = np.random.default_rng(0)
    later = [stage_of(rng, recipe, begin + i) for i in range(400)]
    assert set(later) == {None, STAGES[2]}
    assert sum(stage is not None for stage in later) == pytest.approx(100, abs=25)
    assert stage_of(rng, recipe, 0) is None
    assert stage_of(rng, recipe, begin - 1) is STAGES[2]
    assert stage_of(rng, replace(recipe, curriculum=()), begin) is None


def test_the_lesson_goes_straight_through_the_middle_in_the_words_of_its_stage():
    window = pool(size=24, fresh=1, stage=FIRST)
    window.advance(0)
    latents, captions = draw_batch(window, np.random.default_rng(0), Recipe(clips=24), step=0)
    assert latents.shape == (24, 3, 8, 1, 1)
    assert {one.motion.name for one in window.contents} == {"right", "left", "up", "down"}
    assert set(captions) == {
        f"a large red circle moves {way} on a gray background"
        for way in ("to the right", "to the left", "up", "down")
    }
    way = KNOWN["right"].trajectory(8, Middle())
    assert way.y.tolist() == pytest.approx([0.5] * 8)
    assert way.x[0] + way.x[-1] == pytest.approx(1)


def test_the_lessons_last_stage_says_how_fast_as_often_as_not():
    rng = np.random.default_rng(0)
    drawn = [draw_stage(STAGES[2], rng) for _ in range(300)]
    said = [adverb for _, motion, adverb in drawn if motion.speeds]
    assert {adverb: round(said.count(adverb) / len(said), 1) for adverb in SPEEDS} == dict.fromkeys(
        SPEEDS, 0.3
    )
    assert {adverb for _, motion, adverb in drawn if not motion.speeds} == {""}
    assert {draw_stage(FIRST, rng)[2] for _ in range(20)} == {""}


def test_muon_makes_every_direction_of_an_update_about_as_long():
    matrices = torch.randn(3, 24, 60, generator=torch.Generator().manual_seed(0))
    matrices[:, :, 5] *= 50  # one direction that would drown the others
    for wide in (matrices, matrices.mT):
        lengths = torch.linalg.svdvals(orthogonalised(wide))
        assert lengths.shape == (3, 24)
        assert lengths.min() > 0.5
        assert lengths.max() < 1.4


def test_muon_trains_matrices_and_adamw_the_rest():
    torch.manual_seed(0)
    net = torch.nn.ModuleDict(
        {
            "conv_in": torch.nn.Conv2d(3, 4, 3),
            "inner": torch.nn.Conv2d(4, 4, 3),
            "norm": torch.nn.GroupNorm(2, 4),
        }
    )
    optimizer = MuonWithAdamW({"net": net}, lr=0.01)
    sizes = {
        name: sum(p.numel() for g in part.param_groups for p in g["params"])
        for name, part in optimizer.parts.items()
    }
    assert sizes == {
        "matrices": net["inner"].weight.numel(),
        "rest": sum(p.numel() for p in net.parameters()) - net["inner"].weight.numel(),
    }
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    net["norm"](net["inner"](net["conv_in"](torch.randn(2, 3, 9, 9)))).square().mean().backward()
    optimizer.step()
    moved = {name: (p - before[name]).abs().max().item() for name, p in net.named_parameters()}
    assert all(0 < distance < 0.05 for distance in moved.values())


def test_the_learning_rate_warms_up_stays_and_decays_to_nothing():
    schedule = Schedule(1.0, 1000, warmup=100, decay=0.25)
    assert schedule.at(0) == pytest.approx(0.01)
    assert schedule.at(100) == schedule.at(749) == 1.0
    assert schedule.at(875) == pytest.approx(0.5)
    assert schedule.at(1000) == 0


def test_each_word_of_the_grammar_is_one_token_and_other_text_is_spelled(tmp_path):
    tokenizer = write_tokenizer(tmp_path)
    assert all(len(tokenizer(word).input_ids) == 3 for word in vocabulary())
    spelled = tokenizer("zebra Ünïcode 42").input_ids
    assert tokenizer.unk_token_id not in spelled[1:-1]
    assert tokenizer.model_max_length == MAX_LENGTH
