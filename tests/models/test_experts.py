"""Wan 2.2: two experts are one denoiser, and each sample is answered by the one of its noise."""

import json
import shutil

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from stock_pipeline import our_latents, random_adapter, stock_latents, tiny, with_adapter

from infra.errors import UserError
from models.adapters.export import export_merged
from models.adapters.file import read_adapter, save_adapter
from models.foundations.wan.experts import NAMES
from models.generation import GenerationParams
from models.load import load_foundation, locate
from models.lora.routing import Mix, Routing
from models.sizes import Bucket


@pytest.fixture(scope="module")
def experts():
    return tiny("wan22")


@pytest.fixture(scope="module")
def stock():
    return WanPipeline.from_pretrained(locate("tiny-random:wan22"))


@torch.no_grad()
def merged(pipeline, adapter):
    """The stock pipeline with an adapter in its weights."""
    for prefix, transformer in zip(NAMES, (pipeline.transformer, pipeline.transformer_2), strict=True):
        for name, (a, b) in adapter.tensors.items():
            if name.startswith(prefix):
                transformer.get_submodule(name.removeprefix(f"{prefix}.")).weight.add_(b @ a)
    return pipeline


def test_a_batch_of_other_noise_and_adapters_has_the_stock_pipelines_latents(stock):
    foundation = tiny("wan22")
    adapter = random_adapter(foundation)
    plain = GenerationParams(prompt="a cat", seed=7, steps=6, frames=9)
    other = with_adapter(foundation, adapter, prompt="a dog", seed=8, steps=6, guidance_scale=4.0, frames=9)
    base, adapted = our_latents(foundation, [plain, other])
    torch.testing.assert_close(base, stock_latents(stock, foundation, plain), atol=1e-4, rtol=0)
    steps = {t >= 875 for t in stock.scheduler.timesteps.tolist()}
    assert steps == {True, False}, "both experts take part"
    theirs = merged(WanPipeline.from_pretrained(locate("tiny-random:wan22")), adapter)
    torch.testing.assert_close(adapted, stock_latents(theirs, foundation, other), atol=1e-4, rtol=0)


def test_of_wan_22_5b_all_tokens_have_one_timestep():
    foundation, request = tiny("wan22-5b"), GenerationParams(prompt="a cat", seed=7, frames=9)
    assert foundation.latent_shape(Bucket(9, 64, 64)) == (48, 3, 4, 4)
    with pytest.raises(UserError, match=r"height 48 .* multiple of 32"):
        foundation.check_bucket(Bucket(5, 48, 64))
    theirs = WanPipeline.from_pretrained(locate("tiny-random:wan22-5b"))
    (ours,) = our_latents(foundation, [request])
    torch.testing.assert_close(ours, stock_latents(theirs, foundation, request), atol=1e-4, rtol=0)
    assert foundation.decode(ours).shape == (1, 9, 64, 64, 3)
    video = torch.rand(1, 3, 5, 64, 64) * 2 - 1
    assert foundation.encode_video(video).shape[1:] == foundation.latent_shape(Bucket(5, 64, 64))


def test_one_forward_mixes_noise_on_both_sides_of_the_boundary(experts, fill):
    with experts.temporary_bank({"spatial": 1, "temporal": 2}, rank=4) as bank:
        for slot in (1, 2):
            fill(bank, "temporal", slot, seed=slot)
        latents = torch.randn(3, *experts.latent_shape(Bucket(5, 32, 32)))
        t, text = torch.tensor([900.0, 100.0, 875.0]), experts.encode_text(["a", "b", "c"])
        slots, scales = [[1], [2], [1, 2]], [[1.0], [0.5], [1.0, -1.0]]
        with torch.no_grad():
            together = experts.predict(latents, t, text, Routing(temporal=Mix.of(slots, scales)))
            for row in range(3):
                one = slice(row, row + 1)
                routing = Routing(temporal=Mix.of(slots[one], scales[one]))
                alone = experts.predict(latents[one], t[one], text[one], routing)
                torch.testing.assert_close(together[one], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_sample_gives_gradients_to_its_own_expert_alone(experts, checkpointing):
    with experts.temporary_bank({"spatial": 0, "temporal": 2}, rank=2, trainable=True) as bank:
        with experts.gradient_checkpointing(checkpointing):
            latents = torch.randn(2, *experts.latent_shape(Bucket(5, 32, 32)))
            answer = experts.predict(
                latents,
                torch.tensor([900.0, 100.0]),
                experts.encode_text(["a", "b"]),
                Routing(temporal=Mix.of([[1], [2]])),
            )
            answer.square().sum().backward()
        for slot, own in ((1, "high_noise"), (2, "low_noise")):
            for name, parameter in bank.named_slot_parameters("temporal", slot):
                reached = parameter.grad is not None and bool(parameter.grad.any())
                assert reached == (name.startswith(own) and name.endswith("B")), name


def test_every_worker_asks_both_sharded_experts_and_the_answer_stays_the_same(experts):
    latents = torch.randn(1, *experts.latent_shape(Bucket(5, 32, 32)))
    t, text = torch.tensor([900.0]), experts.encode_text(["a"])
    with experts.temporary_bank({"spatial": 0, "temporal": 1}, rank=2, trainable=True) as bank:
        routing = Routing(temporal=Mix.of([[1]]))
        alone = experts.predict(latents, t, text, routing)
        first = [
            next(expert.parameters()) for expert in (experts.denoiser.high_noise, experts.denoiser.low_noise)
        ]
        for parameter in first:
            parameter.ds_id = 0  # as DeepSpeed marks what it shards
        try:
            both = experts.predict(latents, t, text, routing)
        finally:
            for parameter in first:
                del parameter.ds_id
        both.square().sum().backward()
        assert torch.equal(alone, both)
        for name, parameter in bank.named_slot_parameters("temporal", 1):
            assert parameter.grad is not None, "the other workers wait for this gradient"
            assert name.startswith("high_noise") or not parameter.grad.any()


def test_a_version_holds_both_and_merges_into_both(experts, tmp_path):
    adapter = random_adapter(experts)
    save_adapter(tmp_path / "adapter", adapter, experts)
    again = read_adapter(tmp_path / "adapter", experts)
    assert {name.split(".")[0] for name in again.tensors} == set(NAMES)
    export_merged(experts, [again], tmp_path / "merged")
    for component, name in (("transformer", "high_noise"), ("transformer_2", "low_noise")):
        layer = WanTransformer3DModel.from_pretrained(tmp_path / "merged" / component).blocks[1].attn1.to_q
        a, b = adapter.tensors[f"{name}.blocks.1.attn1.to_q"]
        before = getattr(experts.denoiser, name).blocks[1].attn1.to_q
        torch.testing.assert_close(layer.weight, before.weight + b @ a)


def test_a_checkpoint_with_one_of_two_experts_is_refused(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(locate("tiny-random:wan22"), folder)
    index = json.loads((folder / "model_index.json").read_text())
    for lost in ({"transformer_2": [None, None]}, {"boundary_ratio": None}, {"transformer": [None, None]}):
        (folder / "model_index.json").write_text(json.dumps({**index, **lost}))
        with pytest.raises(UserError, match="one of its two denoising experts"):
            load_foundation(folder, device="cpu")


def test_no_weights_are_needed_for_shapes(experts):
    outline = load_foundation("tiny-random:wan22", device="cpu", parts=())
    assert (outline.targets, outline.boundary) == (experts.targets, experts.boundary)
    assert experts.noise.timesteps(torch.tensor([experts.boundary])).item() == pytest.approx(875)
