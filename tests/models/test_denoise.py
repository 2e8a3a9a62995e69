"""Generation: neighbours change nothing, and stock pipelines give the same frames."""

import numpy as np
import pytest
import torch
from diffusers import TextToVideoSDPipeline, UNet3DConditionModel, WanPipeline
from peft import PeftModel

from infra.errors import InvalidInput
from models.adapters.export import export_merged
from models.adapters.file import Adapter, read_adapter, save_adapter
from models.denoise import denoise_step, finish, sample, start
from models.generation import GenerationParams, InvertedNoise, SlotUse
from models.load import load_foundation, locate


def random_adapter(foundation, path="temporal", rank=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in foundation.targets[path]:
        layer = foundation.denoiser.get_submodule(name)
        tensors[name] = (
            torch.randn(rank, layer.in_features, generator=generator) * 0.2,
            torch.randn(layer.out_features, rank, generator=generator) * 0.2,
        )
    return Adapter(path, rank, tensors, {"concept": "spin"})


def random_prior(foundation, weight, seed=9):
    shape = foundation.latent_shape(foundation.defaults.bucket)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return InvertedNoise(weight=weight, noise_Cfhw=noise, source="test")


def stock_frames(pipeline, foundation, request):
    bucket = foundation.defaults.bucket
    pipeline.set_progress_bar_config(disable=True)
    result = pipeline(
        request.prompt,
        negative_prompt="",
        num_frames=bucket.frames,
        height=bucket.height,
        width=bucket.width,
        num_inference_steps=foundation.defaults.num_inference_steps,
        guidance_scale=foundation.defaults.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        output_type="np",
    )
    return np.asarray(result.frames[0])


def ours(foundation, adapter, request):
    bank = foundation.add_bank({"spatial": 1, "temporal": 2}, rank=8)
    bank.write("temporal", 2, adapter.tensors)
    with_adapter = GenerationParams(**{**request.__dict__, "adapters": (SlotUse(path="temporal", slot=2),)})
    base, adapted = sample(foundation, [request, with_adapter])
    assert np.abs(base.astype(int) - adapted).max() > 8, "the adapter must be seen in the frames"
    return adapted / 255.0


def test_peft_on_the_stock_pipeline_gives_the_same_frames(tmp_path):
    foundation = load_foundation("tiny-random:unet3d")
    adapter = random_adapter(foundation)
    save_adapter(tmp_path, adapter, foundation)
    request = GenerationParams(prompt="a cat", seed=7)
    pipeline = TextToVideoSDPipeline.from_pretrained(locate("tiny-random:unet3d"))
    pipeline.unet = PeftModel.from_pretrained(pipeline.unet, tmp_path)
    theirs = stock_frames(pipeline, foundation, request)
    assert np.abs(ours(foundation, adapter, request) - theirs).max() < 2 / 255


def test_the_stock_lora_loader_of_wan_gives_the_same_frames(tmp_path):
    foundation = load_foundation("tiny-random:wan")
    adapter = random_adapter(foundation)
    save_adapter(tmp_path, adapter, foundation)
    request = GenerationParams(prompt="a cat", seed=7)
    pipeline = WanPipeline.from_pretrained(locate("tiny-random:wan"))
    pipeline.load_lora_weights(str(tmp_path), weight_name="adapter_model.safetensors")
    theirs = stock_frames(pipeline, foundation, request)
    assert np.abs(ours(foundation, adapter, request) - theirs).max() < 2 / 255


@pytest.mark.parametrize(
    ("family", "pipeline_class"), [("unet3d", TextToVideoSDPipeline), ("wan", WanPipeline)]
)
def test_the_denoiser_reads_the_words_that_the_stock_pipeline_gives_it(family, pipeline_class):
    """Length included: padding has no mask in Wan, so the number of tokens is a part of the prompt."""
    foundation = load_foundation(f"tiny-random:{family}", device="cpu")
    pipeline = pipeline_class.from_pretrained(locate(f"tiny-random:{family}"))
    heard = []
    pipeline.components[foundation.denoiser_name].register_forward_pre_hook(
        lambda _, args, kwargs: heard.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    stock_frames(pipeline, foundation, GenerationParams(prompt="a cat", seed=7))
    theirs, ours = heard[0][-1], foundation.encode_text(["a cat"])[0]  # with guidance the prompt comes last
    torch.testing.assert_close(ours, theirs)


def test_a_merged_export_gives_the_same_frames_in_the_stock_pipeline(tmp_path):
    foundation = load_foundation("tiny-random:unet3d")
    adapter = save_adapter(tmp_path / "adapter", random_adapter(foundation), foundation)
    request = GenerationParams(prompt="a cat", seed=3)
    expected = ours(foundation, adapter, request)
    merged = export_merged(foundation, [adapter], tmp_path / "merged")
    pipeline = TextToVideoSDPipeline.from_pretrained(
        locate("tiny-random:unet3d"), unet=UNet3DConditionModel.from_pretrained(merged)
    )
    assert np.abs(expected - stock_frames(pipeline, foundation, request)).max() < 2 / 255


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
            scheduler=kinds[1],
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
    one, again, other = sample(foundation, [GenerationParams(prompt="a cat", seed=s) for s in (5, 5, 6)])
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_noise_prior_replaces_a_part_of_the_noise_and_the_seed_fixes_the_rest(foundation):
    plain, ignored, some, again, other_seed, whole, whole_too = sample(
        foundation,
        [
            GenerationParams(
                prompt="a cat",
                seed=seed,
                noise_prior=None if weight is None else random_prior(foundation, weight),
            )
            for seed, weight in ((5, None), (5, 0.0), (5, 0.4), (5, 0.4), (6, 0.4), (5, 1.0), (6, 1.0))
        ],
        batch_size=1,
    )
    assert np.array_equal(plain, ignored)
    assert np.array_equal(some, again)
    assert not np.array_equal(some, plain)
    assert not np.array_equal(some, other_seed)
    assert np.array_equal(whole, whole_too), "no noise of the seed is left"


def test_a_noise_prior_of_another_size_is_refused(foundation):
    prior = random_prior(foundation, 0.5)
    bucket = foundation.defaults.bucket
    longer = GenerationParams(prompt="a cat", frames=bucket.frames * 2 - 1, noise_prior=prior)
    with pytest.raises(InvalidInput, match="give a prior of the video's model and size") as caught:
        start(foundation, longer)
    assert caught.value.code == "noise_prior_size"


def test_an_adapter_returns_from_its_file_as_it_was(tmp_path, foundation):
    adapter = random_adapter(foundation)
    saved = save_adapter(tmp_path, adapter, foundation, metadata={"steps": 3, "captions": ["a cat spins"]})
    read = read_adapter(tmp_path, foundation)
    assert read.sha256 == saved.sha256
    assert (read.path, read.rank, read.concept) == ("temporal", 4, "spin")
    assert read.metadata["captions"] == '["a cat spins"]'
    assert read.metadata["foundation_fingerprint"] == foundation.fingerprint
    for name, (a, b) in adapter.tensors.items():
        assert torch.equal(read.tensors[name][0], a)
        assert torch.equal(read.tensors[name][1], b)
