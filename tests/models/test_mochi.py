"""Mochi: its time, its schedule, prompts that are empty."""

import pytest
import torch
from stock_pipeline import tiny

from infra.errors import UserError
from models.denoise import start
from models.foundations.base import Bucket
from models.generation import GenerationParams


@pytest.fixture(scope="module")
def mochi():
    return tiny("mochi")


def test_high_noise_is_early_in_its_time(mochi):
    t = mochi.noise.timesteps(torch.tensor([0.0, 0.25, 0.999]), low=0.5)
    assert t.tolist() == pytest.approx([500, 375, 0.5], abs=1e-3)
    one, none = torch.ones(3, 1, 1, 1, 1), torch.zeros(3, 1, 1, 1, 1)
    assert mochi.noise.add(none, one, t).flatten().tolist() == pytest.approx([0.5, 0.625, 0.9995])
    assert torch.equal(mochi.noise.target(one, none, t), one)


def test_a_video_may_begin_at_a_later_step_from_clean_latents_and_noise_of_that_level(mochi):
    begun = start(mochi, GenerationParams(prompt="a cat", seed=1, steps=8))
    noise = begun.latents_1Cfhw.clone()
    clean = torch.full(noise.shape[1:], 2.0)
    begun.begin_at(6, clean)
    level = 1 - float(begun.timesteps[6]) / 1000
    assert 0.1 < level < 0.9
    torch.testing.assert_close(begun.latents_1Cfhw, (1 - level) * clean[None] + level * noise)


def test_one_step_is_refused(mochi):
    with pytest.raises(UserError, match="asked for 1 step; its schedule needs at least 2"):
        start(mochi, GenerationParams(prompt="a cat", steps=1))


def test_a_prompt_is_read_beside_an_empty_one(mochi):
    """The stock pipeline takes all prompts of a batch as empty if the last one is."""
    text = mochi.encode_text(["a cat", ""])
    assert text[0, :, -1].any()
    assert not text[1, :, -1].any()
    latents = torch.randn(2, *mochi.latent_shape(Bucket(7, 32, 32)))
    with torch.no_grad():
        both = mochi.predict(latents, torch.tensor([500.0, 500.0]), text)
        alone = mochi.predict(latents[1:], torch.tensor([500.0]), text[1:])
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-5)
