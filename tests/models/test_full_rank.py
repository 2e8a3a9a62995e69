"""Rank full: a slot is the change of the layers' whole weights, in training, in files and in stock tools."""

import numpy as np
import pytest
import torch
from diffusers import TextToVideoSDPipeline, UNet3DConditionModel, WanPipeline
from peft import PeftModel

from infra.errors import UserError
from models.adapters.export import export_merged
from models.adapters.file import WEIGHTS_FILE, Adapter, largest_rank, read_adapter, save_adapter
from models.denoise import sample
from models.generation import GenerationParams, SlotUse
from models.load import load_foundation, locate
from models.lora.bank import rank_for
from models.lora.routing import Mix, Routing
from models.lora.slots import with_identity


def changes(foundation, path="temporal", seed=0, std=0.1):
    """A change of every target's whole weight, as (identity, change)."""
    g = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in foundation.targets[path]:
        weight = foundation.denoiser.get_submodule(name).weight
        tensors[name] = with_identity(torch.randn(weight.shape, generator=g) * std)
    return tensors


def full_adapter(foundation, path="temporal"):
    tensors = changes(foundation, path)
    return Adapter(path, largest_rank(tensors), tensors, {"concept": "spin", "method": "full"})


def inputs(foundation, batch=2):
    g = torch.Generator().manual_seed(3)
    latents = torch.randn((batch, *foundation.latent_shape(foundation.defaults.bucket)), generator=g)
    t = foundation.noise.timesteps(torch.linspace(0.3, 0.8, batch))
    return latents, t, foundation.encode_text(["a cat", "a red dog"][:batch])


@torch.no_grad()
def test_a_full_slot_is_the_change_of_the_weights(foundation):
    latents, t, text = inputs(foundation)
    tensors = changes(foundation)
    bank = foundation.add_bank({"temporal": 1}, "full")
    bank.write("temporal", 1, tensors)
    routed = foundation.predict(latents, t, text, Routing(temporal=Mix.of([[1], [1]], [[0.5], [0.5]])))
    bare = foundation.predict(latents, t, text)
    for name, (_, change) in tensors.items():
        foundation.denoiser.get_submodule(name).weight.add_(0.5 * change)
    torch.testing.assert_close(routed, foundation.predict(latents, t, text), atol=1e-5, rtol=1e-4)
    assert (routed - bare).abs().max() > 1e-3


@torch.no_grad()
def test_a_full_bank_holds_a_lora_of_any_rank_and_a_wide_bank_a_full_adapter(foundation, fill):
    latents, t, text = inputs(foundation)
    routing = Routing(temporal=Mix.of([[1], [1]]))
    lora = fill(foundation.add_bank({"temporal": 1}, 3), "temporal", 1)
    of_lora = foundation.predict(latents, t, text, routing)
    full = foundation.add_bank({"temporal": 1}, "full")
    assert full.holds(3)
    assert full.holds(10**6)
    full.write("temporal", 1, lora)
    torch.testing.assert_close(foundation.predict(latents, t, text, routing), of_lora, atol=1e-5, rtol=1e-4)
    tensors = changes(foundation)
    full.write("temporal", 1, tensors)
    of_change = foundation.predict(latents, t, text, routing)
    wide = foundation.add_bank({"temporal": 1}, largest_rank(tensors))
    wide.write("temporal", 1, tensors)
    torch.testing.assert_close(foundation.predict(latents, t, text, routing), of_change, atol=1e-5, rtol=1e-4)
    narrow = foundation.add_bank({"temporal": 1}, largest_rank(tensors) - 1)
    assert not narrow.holds(largest_rank(tensors))
    with pytest.raises(AssertionError, match="does not fit"):
        narrow.write("temporal", 1, tensors)


def test_what_is_written_to_a_full_slot_comes_back_bit_for_bit(foundation):
    tensors = changes(foundation)
    bank = foundation.add_bank({"temporal": 2}, "full")
    bank.write("temporal", 2, tensors)
    back = bank.extract("temporal", 2)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name][i], tensors[name][i]) for name in tensors for i in (0, 1))
    bank.clear("temporal", 2)
    assert not any(b.any() for _, b in bank.extract("temporal", 2).values())


def test_only_the_changes_of_a_full_slot_are_trained_and_they_start_at_zero(foundation):
    bank = foundation.add_bank({"temporal": 1}, "full", trainable=True)
    names = [name for name, _ in bank.named_slot_parameters("temporal", 1)]
    assert names == [f"{layer}/B" for layer in foundation.targets["temporal"]]
    for layer, parameter in zip(
        foundation.targets["temporal"], bank.slot_parameters("temporal", 1), strict=True
    ):
        assert parameter.shape == foundation.denoiser.get_submodule(layer).weight.shape
        assert not parameter.any()


def test_a_bank_for_adapters_has_their_rank_or_is_full(foundation):
    def lora(rank):
        return {"layer": (torch.zeros(rank, 8), torch.zeros(8, rank))}

    assert rank_for([lora(4)]) == 4
    assert rank_for([lora(4), lora(2)]) == 4
    assert rank_for([lora(16)]) == 16  # one rank for all, though it is wider than the layer
    assert rank_for([changes(foundation)]) == "full"


def test_a_full_adapter_returns_from_its_file_as_it_was(tmp_path, foundation):
    adapter = full_adapter(foundation)
    save_adapter(tmp_path, adapter, foundation)
    read = read_adapter(tmp_path, foundation)
    widths = {foundation.denoiser.get_submodule(name).in_features for name in adapter.tensors}
    assert len(widths) > 1
    assert (read.rank, read.metadata["rank"], read.metadata["method"]) == (
        max(widths),
        str(max(widths)),
        "full",
    )
    for name, pair in adapter.tensors.items():
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(pair, read.tensors[name], strict=True))


def test_a_rank_beyond_reason_is_refused(tmp_path, foundation):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    save_adapter(tmp_path, full_adapter(foundation), foundation)
    file = tmp_path / WEIGHTS_FILE
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    down = next(key for key in tensors if key.endswith("lora_A.weight"))
    up = down.replace("lora_A", "lora_B")
    tensors[down] = torch.zeros(1025, tensors[down].shape[1])
    tensors[up] = torch.zeros(tensors[up].shape[0], 1025)
    save_file(tensors, file, metadata=metadata)
    with pytest.raises(UserError, match=r"has rank 1025, outside 1\.\.1024"):
        read_adapter(tmp_path, foundation)


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


def our_frames(foundation, adapter, request):
    bank = foundation.add_bank({"temporal": 1}, rank_for([adapter.tensors]))
    bank.write("temporal", 1, adapter.tensors)
    with_adapter = GenerationParams(**{**request.__dict__, "adapters": (SlotUse(path="temporal", slot=1),)})
    base, adapted = sample(foundation, [request, with_adapter])
    assert np.abs(base.astype(int) - adapted).max() > 8, "the adapter must be seen in the frames"
    return adapted / 255.0


def test_peft_loads_a_full_adapter_on_the_stock_unet_and_answers_as_the_bank_does(tmp_path):
    foundation = load_foundation("tiny-random:unet3d")
    adapter = full_adapter(foundation)
    save_adapter(tmp_path, adapter, foundation)
    request = GenerationParams(prompt="a cat", seed=7)
    pipeline = TextToVideoSDPipeline.from_pretrained(locate("tiny-random:unet3d"))
    pipeline.unet = PeftModel.from_pretrained(pipeline.unet, tmp_path)
    theirs = stock_frames(pipeline, foundation, request)
    assert np.abs(our_frames(foundation, adapter, request) - theirs).max() < 2 / 255


def test_the_stock_lora_loader_of_wan_loads_a_full_adapter(tmp_path):
    foundation = load_foundation("tiny-random:wan")
    adapter = full_adapter(foundation)
    save_adapter(tmp_path, adapter, foundation)
    request = GenerationParams(prompt="a cat", seed=7)
    pipeline = WanPipeline.from_pretrained(locate("tiny-random:wan"))
    pipeline.load_lora_weights(str(tmp_path), weight_name=WEIGHTS_FILE)
    theirs = stock_frames(pipeline, foundation, request)
    assert np.abs(our_frames(foundation, adapter, request) - theirs).max() < 2 / 255


def test_a_full_adapter_is_exported_merged(tmp_path):
    foundation = load_foundation("tiny-random:unet3d")
    adapter = save_adapter(tmp_path / "adapter", full_adapter(foundation), foundation)
    request = GenerationParams(prompt="a cat", seed=3)
    merged = export_merged(foundation, [adapter], tmp_path / "merged")
    pipeline = TextToVideoSDPipeline.from_pretrained(
        locate("tiny-random:unet3d"), unet=UNet3DConditionModel.from_pretrained(merged)
    )
    theirs = stock_frames(pipeline, foundation, request)
    assert np.abs(our_frames(foundation, adapter, request) - theirs).max() < 2 / 255


@torch.no_grad()
def test_after_a_passing_bank_the_one_before_is_back(foundation, fill):
    latents, t, text = inputs(foundation)
    routing = Routing(temporal=Mix.of([[1], [1]]))
    bank = foundation.add_bank({"temporal": 1}, 4)
    fill(bank, "temporal", 1)
    expected = foundation.predict(latents, t, text, routing)
    with foundation.temporary_bank({"temporal": 1}, "full") as passing:
        assert foundation.bank is passing
        passing.write("temporal", 1, changes(foundation))
        assert not torch.equal(foundation.predict(latents, t, text, routing), expected)
    assert foundation.bank is bank
    assert torch.equal(foundation.predict(latents, t, text, routing), expected)
