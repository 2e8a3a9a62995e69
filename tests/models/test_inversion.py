"""Inversion gives the noise that deterministic sampling turns back into the clip, and mixing keeps its variance."""

import pytest
import torch
from diffusers import DDIMInverseScheduler

from infra.errors import InvalidInput
from models.denoise import denoise_step, start
from models.generation import GenerationParams, InvertedNoise
from models.inversion import invert, mix
from models.load import load_foundation
from models.tiny.unets import write_tiny_unet3d


def damped(foundation):
    """A random network changes its answer so much from step to step that no iteration converges: weaken its output."""
    with torch.no_grad():
        foundation.denoiser.conv_out.weight.mul_(0.03)
    return foundation


@pytest.fixture(params=["epsilon", "v_prediction", "flow"])
def foundation(request, tmp_path):
    if request.param == "flow":
        return load_foundation("tiny-random:wan", device="cpu", dtype=torch.float32)
    folder = write_tiny_unet3d(tmp_path / "model", prediction_type=request.param)
    return damped(load_foundation(str(folder), device="cpu", dtype=torch.float32))


def clip_latents(foundation):
    bucket = foundation.defaults.bucket
    pixels = torch.rand(
        (1, 3, bucket.frames, bucket.height, bucket.width), generator=torch.Generator().manual_seed(3)
    )
    return foundation.encode_video(2 * pixels - 1)[0]


def error(found, expected):
    return float((found - expected).norm() / expected.norm())


def sampled(foundation, noise_Cfhw, steps):
    """The latents that a request with this noise alone ends with, by the deterministic sampler of its family."""
    request = GenerationParams(
        prompt="",
        steps=steps,
        guidance_scale=1.0,
        scheduler="flow-euler" if foundation.family == "wan" else "ddim",
        noise_prior=InvertedNoise(weight=1.0, noise_Cfhw=noise_Cfhw, source="test"),
    )
    one = start(foundation, request)
    while not one.done:
        denoise_step(foundation, [one])
    return one.latents_1Cfhw[0]


def test_sampling_without_adapters_turns_the_inverted_noise_into_the_clip_again(foundation):
    latents = clip_latents(foundation)
    once, thrice, six = (invert(foundation, latents, steps=8, iterations=n) for n in (1, 3, 6))
    errors = [error(sampled(foundation, noise, 8), latents) for noise in (once, thrice, six)]
    assert errors[2] < 0.01, "within 1 % of the latents' norm"
    assert errors[2] < errors[1] < errors[0]
    assert error(six, latents) > 0.1, "the noise is something else than the clip"


def test_one_iteration_is_the_ddim_inversion_of_the_published_code(tmp_path):
    folder = write_tiny_unet3d(tmp_path / "model")
    foundation = load_foundation(str(folder), device="cpu", dtype=torch.float32)
    latents, text = clip_latents(foundation), foundation.encode_text([""])
    inverse = DDIMInverseScheduler.from_config(foundation.pipeline.scheduler.config)
    inverse.set_timesteps(10)
    expected = latents.unsqueeze(0)
    with torch.no_grad():
        for t in inverse.timesteps:
            answer = foundation.predict(expected, t.expand(1), text)
            expected = inverse.step(answer, t, expected).prev_sample
    found = invert(foundation, latents, steps=10, iterations=1)
    torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-5)


def test_adapters_of_the_bank_take_no_part_in_the_inversion(foundation, fill):
    latents = clip_latents(foundation)
    bare = invert(foundation, latents, steps=2)
    fill(foundation.add_bank({"spatial": 1, "temporal": 1}, rank=4), "temporal", 1)
    assert torch.equal(invert(foundation, latents, steps=2), bare)


def test_the_text_and_the_number_of_steps_count_and_progress_is_told(foundation):
    latents, told = clip_latents(foundation), []
    noise = invert(foundation, latents, steps=3, on_step=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert noise.shape == latents.shape
    assert noise.dtype == torch.float32
    empty, cat = foundation.encode_text(["", "a cat"])
    assert torch.equal(invert(foundation, latents, empty, steps=3), noise)
    assert not torch.equal(invert(foundation, latents, cat, steps=3), noise)
    assert not torch.equal(invert(foundation, latents, steps=4), noise)


def test_noise_that_is_not_finite_is_refused(foundation):
    with pytest.raises(InvalidInput, match="NaN or infinite values; load the model in fp32"):
        invert(foundation, torch.full_like(clip_latents(foundation), float("nan")), steps=1)


def test_mixing_keeps_the_variance_and_its_ends_are_the_two_noises():
    generator = torch.Generator().manual_seed(0)
    noise, inverted = (torch.randn(100_000, generator=generator) for _ in range(2))
    assert torch.equal(mix(noise, inverted, 0.0), noise)
    assert torch.equal(mix(noise, inverted, 1.0), inverted)
    mixed = mix(noise, inverted, 0.3)
    assert float(mixed.std()) == pytest.approx(1.0, abs=0.01)
    assert float((mixed * inverted).mean()) == pytest.approx(0.3**0.5, abs=0.01)
    assert float((mixed * noise).mean()) == pytest.approx(0.7**0.5, abs=0.01)
