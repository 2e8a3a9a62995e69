"""Generation: the stock pipeline's latents and frames from the same seed, with its own loaders, in mixed batches."""

import numpy as np
import pytest
import torch
from stock_pipeline import Stock, ours, random_adapter

from infra.errors import InvalidInput
from models.adapters.file import save_adapter
from models.denoise import denoise_step, finish, sample, start
from models.generation import GenerationParams, InvertedNoise, SlotUse


def random_prior(foundation, weight, seed=9):
    shape = foundation.latent_shape(foundation.defaults.bucket)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return InvertedNoise(weight=weight, noise_Cfhw=noise, source="test")


def test_a_mixed_batch_gives_what_the_stock_pipeline_gives_for_each_request_with_its_own_loader(
    foundation, tmp_path
):
    """One batch: the base model, and two adapters with other timesteps, guidance, prompts and seeds."""
    adapters = [random_adapter(foundation, seed=seed) for seed in (1, 2)]
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, adapter in zip(folders, adapters, strict=True):
        save_adapter(folder, adapter, foundation)
    bank = foundation.add_bank({"spatial": 1, "temporal": 2}, rank=8)
    for slot, adapter in enumerate(adapters, 1):
        bank.write("temporal", slot, adapter.tensors)
    requests = [
        GenerationParams(prompt="a cat", seed=7),
        GenerationParams(prompt="a cat", seed=7, adapters=(SlotUse(path="temporal", slot=1),)),
        GenerationParams(
            prompt="a red dog",
            seed=8,
            steps=3,
            guidance_scale=5.0,
            adapters=(SlotUse(path="temporal", slot=2),),
        ),
    ]
    assert foundation.defaults.guidance_scale > 1, "guidance is on"
    made = ours(foundation, requests)
    stock = [Stock(foundation), *(Stock(foundation).load(folder) for folder in folders)]
    for (latents, frames), one, request in zip(made, stock, requests, strict=True):
        expected, expected_frames = one(request)
        torch.testing.assert_close(latents, expected, rtol=0, atol=foundation.batch_rounding)
        assert np.abs(frames - expected_frames).max() < 2 / 255
        if foundation.batch_rounding > 1e-4:
            ((alone, _),) = ours(foundation, [request])
            torch.testing.assert_close(alone, expected, rtol=0, atol=1e-4)
    assert np.abs(made[0][1] - made[1][1]).max() > 8 / 255, "the adapter must be seen in the frames"


def test_the_denoiser_reads_the_words_that_the_stock_pipeline_gives_it(foundation):
    """Length included: where padding has no mask, the number of tokens is a part of the prompt."""
    stock, heard = Stock(foundation), {"theirs": [], "ours": []}
    component, own = next(iter(foundation.denoisers.values()))

    def listen(name):
        def hear(_, args, kwargs):
            text, mask = kwargs["encoder_hidden_states"], kwargs.get("encoder_attention_mask")
            heard[name].append(text if mask is None else text[mask.bool()])

        return hear

    request = GenerationParams(prompt="a cat", seed=7, steps=2, guidance_scale=1.0)
    for name, denoiser, make in (
        ("theirs", getattr(stock.pipeline, component), lambda: stock(request)),
        ("ours", own, lambda: ours(foundation, [request])),
    ):
        hook = denoiser.register_forward_pre_hook(listen(name), with_kwargs=True)
        make()
        hook.remove()
    torch.testing.assert_close(heard["ours"][0], heard["theirs"][0])


@pytest.mark.parametrize("seed", [0, 1])
def test_a_request_is_the_same_alone_or_among_neighbours(foundation, seed):
    bank = foundation.add_bank({"spatial": 1, "temporal": 2}, rank=4)
    for slot in (1, 2):
        bank.write("temporal", slot, random_adapter(foundation, seed=slot).tensors)
    bank.write("spatial", 1, random_adapter(foundation, "spatial", seed=5).tensors)
    kinds = foundation.scheduler_kinds()
    pool = [
        GenerationParams(prompt="a cat", seed=1, adapters=(SlotUse(path="temporal", slot=1),)),
        GenerationParams(prompt="a dog", seed=2, guidance_scale=1.0, steps=3),
        GenerationParams(
            prompt="rain",
            seed=3,
            scheduler=kinds[-1],
            adapters=(SlotUse(path="temporal", slot=2, scale=0.5), SlotUse(path="spatial", slot=1)),
        ),
        GenerationParams(
            prompt="a cat",
            seed=4,
            steps=6,
            adapters=(SlotUse(path="temporal", slot=2, scale=1.0, until=0.4),),
        ),
        GenerationParams(prompt="a cat", seed=5, noise_prior=random_prior(foundation, weight=0.4)),
    ]
    alone = [sample(foundation, [request])[0].astype(int) for request in pool]
    # Requests join at different steps and leave at different steps.
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed)).tolist()
    waiting, running, frames = list(order), {}, {}
    while waiting or running:
        if waiting:
            index = waiting.pop(0)
            running[index] = start(foundation, pool[index])
        denoise_step(foundation, list(running.values()))
        for index in [index for index, one in running.items() if one.done]:
            frames[index] = finish(foundation, running.pop(index)).astype(int)
    for index, expected in enumerate(alone):
        assert np.abs(frames[index] - expected).max() <= 1


def test_the_seed_fixes_the_frames(foundation):
    requests = [GenerationParams(prompt="a cat", seed=seed) for seed in (5, 5, 6)]
    one, again, other = sample(
        foundation, requests, batch_size=1
    )  # rows of one batch may be rounded differently
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_noise_prior_replaces_a_part_of_the_noise_and_the_seed_fixes_the_rest(foundation):
    wanted = ((5, None), (5, 0.0), (5, 0.4), (5, 0.4), (6, 0.4), (5, 1.0), (6, 1.0))
    plain, ignored, some, again, other_seed, whole, whole_too = (
        start(
            foundation,
            GenerationParams(
                prompt="a cat",
                seed=seed,
                noise_prior=None if weight is None else random_prior(foundation, weight),
            ),
        ).latents_1Cfhw
        for seed, weight in wanted
    )
    assert torch.equal(plain, ignored)
    assert torch.equal(some, again)
    assert not torch.equal(some, plain)
    assert not torch.equal(some, other_seed)
    assert torch.equal(whole, whole_too), "no noise of the seed is left"


def test_a_noise_prior_of_another_size_is_refused(foundation):
    prior = random_prior(foundation, 0.5)
    bucket = foundation.defaults.bucket
    longer = GenerationParams(prompt="a cat", frames=bucket.frames * 2 - 1, noise_prior=prior)
    with pytest.raises(InvalidInput, match="give a prior of the video's model and size") as caught:
        start(foundation, longer)
    assert caught.value.code == "noise_prior_size"
