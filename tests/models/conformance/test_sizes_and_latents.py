"""Shapes, single frames, sizes that cannot be, and noise that training and sampling understand alike."""

from dataclasses import replace

import pytest
import torch

from infra.errors import UserError
from models.denoise import denoise_step, start
from models.generation import GenerationParams


def video(foundation, batch=2):
    bucket = foundation.defaults.bucket
    generator = torch.Generator().manual_seed(1)
    return torch.rand((batch, 3, bucket.frames, bucket.height, bucket.width), generator=generator) * 2 - 1


def test_latents_have_the_promised_shape_and_decode_to_pixels(foundation):
    bucket = foundation.defaults.bucket
    latents = foundation.encode_video(video(foundation))
    assert latents.shape == (2, *foundation.latent_shape(bucket))
    assert latents.dtype == torch.float32
    assert torch.equal(latents, foundation.encode_video(video(foundation))), "the mode, not a sample"
    frames = foundation.decode(latents)
    assert frames.shape == (2, bucket.frames, bucket.height, bucket.width, 3)
    assert frames.dtype == torch.uint8


def test_each_frame_is_encoded_as_a_video_of_its_own(foundation):
    pixels, one_frame = video(foundation), replace(foundation.defaults.bucket, frames=1)
    foundation.check_bucket(one_frame)
    frames = foundation.encode_frames(pixels)
    assert frames.shape == (2, pixels.shape[2], *foundation.latent_shape(one_frame))
    third = foundation.encode_video(pixels[:, :, 2:3])
    assert torch.allclose(frames[:, 2], third, atol=1e-5)
    assert foundation.decode(third).shape[:2] == (2, 1)
    clip, again = foundation.encode_both(pixels)
    assert torch.allclose(clip, foundation.encode_video(pixels), atol=1e-5)
    assert torch.allclose(again, frames, atol=1e-5)


def test_prompts_of_any_length_share_one_shape(foundation):
    short, long = foundation.encode_text(["a", "a very long prompt " * 40])
    assert tuple(short.shape) == foundation.text_shape, (
        "memory is computed from it, before a prompt is encoded"
    )
    assert short.shape == long.shape
    assert foundation.text_limit.unread("a very long prompt " * 400)


def test_a_size_that_cannot_be_is_refused_with_the_nearest_that_can(foundation):
    bucket, sizes = foundation.defaults.bucket, foundation.sizes
    for side, multiple in zip(("height", "width"), sizes.multiples, strict=True):
        wrong = replace(bucket, **{side: 2 * multiple + 1})
        with pytest.raises(UserError, match=rf"{side} {2 * multiple + 1} .* such as {2 * multiple}\."):
            foundation.check_bucket(wrong)
    with pytest.raises(UserError, match="frame count 0 does not suit"):
        foundation.check_bucket(replace(bucket, frames=0))
    if (step := sizes.frame_step or sizes.temporal_scale) > 1:
        with pytest.raises(UserError, match=rf"multiple of {step} plus 1, such as {step + 1}\."):
            foundation.check_bucket(replace(bucket, frames=step + 2))
    if sizes.most_frames:
        with pytest.raises(UserError, match=f"at most {sizes.most_frames} frames"):
            foundation.check_bucket(replace(bucket, frames=sizes.most_frames + 1))


def test_an_unknown_scheduler_is_refused_with_the_known_ones(foundation):
    with pytest.raises(
        UserError, match=f"expected one of {foundation.scheduler_kinds()[0]}".replace("+", r"\+")
    ):
        foundation.make_scheduler("magic")


class Oracle:
    """A denoiser that knows the clean latents, and answers in the terms of the training's noise and target."""

    def __init__(self, foundation):
        shape = foundation.latent_shape(foundation.defaults.bucket)
        self.noise = foundation.noise
        self.x0 = torch.randn((1, *shape), generator=torch.Generator().manual_seed(3))

    def __call__(self, x_t, t_B, *_):
        if self.noise.prediction_type != "flow":
            t_B = t_B.round().long()  # some schedulers have whole timesteps as floats
        one, none = torch.ones_like(self.x0), torch.zeros_like(self.x0)
        signal, sigma = self.noise.add(one, none, t_B), self.noise.add(none, one, t_B)
        return self.noise.target(self.x0, (x_t - signal * self.x0) / sigma, t_B)


def test_sampling_undoes_the_noise_of_training_with_every_scheduler(foundation):
    """Noise schedule, prediction type and scale are those of the schedulers: at the end stands the clean estimate."""
    oracle = Oracle(foundation)
    for kind in foundation.scheduler_kinds():
        one = start(
            foundation, GenerationParams(prompt="", seed=1, guidance_scale=1.0, steps=5, scheduler=kind)
        )
        while not one.done:
            denoise_step(foundation, [one], oracle)
        # 0.05: schedulers that round their timesteps, or end at a little noise
        assert (one.latents_1Cfhw - oracle.x0).norm() < 0.05 * oracle.x0.norm(), kind


def test_linear_steps_are_a_sampler(foundation):
    oracle = Oracle(foundation)
    x = torch.randn(oracle.x0.shape, generator=torch.Generator().manual_seed(4))
    for t, keep, add in foundation.linear_steps(5):
        x = keep * x + add * oracle(x, t.expand(1))
    assert (x - oracle.x0).norm() < 0.05 * oracle.x0.norm()
