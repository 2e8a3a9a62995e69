"""What the tests of families share: our latents, and those of the stock pipeline for the same request."""

import sample_adapters
import torch

from models.adapters.file import save_adapter
from models.denoise import denoise_step, install, start
from models.generation import GenerationParams
from models.load import load_foundation


def tiny(family):
    return load_foundation(f"tiny-random:{family}", device="cpu", dtype=torch.float32)


def random_adapter(foundation, path="temporal", rank=4, seed=0, std=0.2):
    about = {"concept": "spin"}
    return sample_adapters.random_adapter(foundation, path, rank=rank, seed=seed, scale=std, metadata=about)


def our_latents(foundation, requests):
    """The finished latents [1, C, f, h, w] of each request, made in one batch."""
    batch = [start(foundation, request) for request in requests]
    while not batch[0].done:
        denoise_step(foundation, batch)
    return [one.latents_1Cfhw for one in batch]


def stock_latents(pipeline, foundation, request, **more):
    """What the stock pipeline returns for `output_type="latent"`."""
    wanted = request.resolved(foundation.defaults)
    pipeline.set_progress_bar_config(disable=True)
    found = pipeline(
        prompt=request.prompt,
        negative_prompt=wanted.negative_prompt,
        num_frames=wanted.frames,
        height=wanted.height,
        width=wanted.width,
        num_inference_steps=wanted.steps,
        guidance_scale=wanted.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        output_type="latent",
        **more,
    )
    return found.frames


def with_adapter(foundation, adapter, **about):
    """A request that uses an adapter, which is put into a new bank."""
    return GenerationParams(**about, adapters=install(foundation, {adapter.path: adapter.tensors}))


def saved(foundation, folder, **about):
    """A random adapter and its folder, for a stock loader."""
    adapter = random_adapter(foundation, **about)
    save_adapter(folder, adapter, foundation)
    return adapter
