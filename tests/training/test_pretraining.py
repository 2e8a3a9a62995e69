"""The sprite foundation's pretraining: small runs of the real program."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, TextToVideoSDPipeline

from datasets.sprites.captions import vocabulary
from infra.errors import UserError
from training.pretraining.common import Average, Schedule, load_state
from training.pretraining.denoiser import (
    Recipe,
    build_parts,
    draw_batch,
    load_parts,
    save_pipeline,
    train_unet,
)
from training.pretraining.tokenizer import MAX_LENGTH, write_tokenizer
from training.pretraining.vae import build_vae, frame_batch, standardised, train_vae

TINY = Recipe(steps=4, image_steps=1, image_share=0.3, clips=1, images=2, seed=5)


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
    assert latents.shape == (64, 8, 8, 8)
    assert latents.mean((0, 2, 3)).tolist() == pytest.approx([0] * 8, abs=0.4)
    assert latents.std((0, 2, 3)).tolist() == pytest.approx([1] * 8, abs=0.4)


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
    train_unet(tmp_path / "more", replace(TINY, steps=1, image_steps=0), again, every=1)
    assert not torch.equal(weights(again.unet), before)


def test_a_state_of_another_shape_is_refused(tmp_path):
    train_vae(tmp_path, steps=1, batch=1)
    parts = build_parts(tmp_path, build_vae())
    modules = {"unet": parts.unet, "text_encoder": parts.text_encoder}
    optimizer = torch.optim.AdamW(parts.unet.parameters())
    with pytest.raises(UserError, match="not a state of this pretraining"):
        load_state(tmp_path / "vae_state.pt", modules, optimizer, Average([parts.unet], 0.9), "cpu")


def test_batches_follow_from_seed_and_step_alone():
    def batch(step):
        return draw_batch(
            np.random.default_rng(np.random.SeedSequence([0, step])),
            Recipe(clips=3, image_steps=0, image_share=0.0),
            step,
        )

    videos, captions = batch(9)
    again, same = batch(9)
    assert (videos == again).all()
    assert captions == same
    assert videos.shape == (3, 8, 64, 64, 3)
    assert batch(10)[1] != captions


def test_the_first_steps_see_single_frames():
    videos, _ = draw_batch(np.random.default_rng(0), Recipe(image_steps=10, images=5), step=9)
    assert videos.shape == (5, 1, 64, 64, 3)


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
