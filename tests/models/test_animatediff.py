"""AnimateDiff: made of a Stable Diffusion and a motion adapter, v2 and v3, and what is refused."""

import json

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffPipeline, MotionAdapter, StableDiffusionPipeline
from safetensors.torch import save_file
from stock_pipeline import our_latents, random_adapter, stock_latents, with_adapter
from transformers import CLIPTextModel

from infra.errors import UserError
from models.adapters.importing import import_files
from models.denoise import sample
from models.foundations.unets.combine import animatediff_ddim, combine
from models.generation import GenerationParams
from models.load import load_foundation
from models.locating import foundation_sizes
from models.tiny.unets import (
    parts_of_stable_diffusion,
    stable_diffusion_ddim,
    tiny_motion_adapter,
    tiny_unet_2d,
    write_tiny_animatediff,
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders of a tiny Stable Diffusion and of the motion adapters v2 and v3."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("parts")
    tokenizer, text, vae = parts_of_stable_diffusion()
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=tokenizer,
        unet=tiny_unet_2d(),
        scheduler=stable_diffusion_ddim(),
        safety_checker=None,
        feature_extractor=None,
    ).save_pretrained(folder / "sd")
    for version in (2, 3):
        tiny_motion_adapter(version).save_pretrained(folder / f"v{version}")
    return folder


@pytest.mark.parametrize("version", [2, 3])
def test_a_combined_folder_makes_what_the_stock_pipeline_makes_of_the_two_parts(parts, tmp_path, version):
    folder = combine(parts / "sd", parts / f"v{version}", tmp_path / "model")
    foundation = load_foundation(folder, device="cpu", dtype=torch.float32)
    middle = [name for name in foundation.targets["temporal"] if name.startswith("mid_block")]
    assert bool(middle) == (version == 2), "v3 has no motion module in the middle block"
    stock = AnimateDiffPipeline.from_pretrained(
        parts / "sd",
        motion_adapter=MotionAdapter.from_pretrained(parts / f"v{version}"),
        scheduler=animatediff_ddim(),
    )
    stock.set_progress_bar_config(disable=True)
    request = GenerationParams(
        prompt="a cat",
        seed=7,
        frames=4,
        height=32,
        width=32,
        steps=3,
        guidance_scale=3.0,
        negative_prompt="blurry",
    )
    theirs = stock(
        "a cat",
        negative_prompt="blurry",
        num_frames=4,
        height=32,
        width=32,
        num_inference_steps=3,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(7),
        output_type="np",
    ).frames[0]
    assert np.abs(sample(foundation, [request])[0] / 255 - theirs).max() < 2 / 255
    index = json.loads((folder / "model_index.json").read_text())
    assert index["motion_adapter"] == [None, None], "its weights are in the UNet, once"
    assert index["scheduler"][1] == "DDIMScheduler"


def motion_lora(adapter, change):
    """An adapter's attention layers as a file of AnimateDiff's: `change` renames a layer."""
    keys = {}
    for name, (a, b) in adapter.tensors.items():
        if ".attn" in name:
            keys[f"{change(name)}.down.weight"], keys[f"{change(name)}.up.weight"] = a, b
    return keys


def converted(name):
    """As diffusers' script writes them, and as guoyww/animatediff-motion-lora-zoom-in has them."""
    module, projection = name.removesuffix(".0").rsplit(".", 1)
    return f"unet.{module}.processor.{projection}_lora"


def original(name):
    """As AnimateDiff's authors write them."""
    name = (
        converted(name)
        .removeprefix("unet.")
        .replace(".transformer_blocks", ".temporal_transformer.transformer_blocks")
    )
    return name.replace("attn1", "attention_blocks.0").replace("attn2", "attention_blocks.1")


def test_a_motion_lora_makes_what_it_makes_in_the_stock_pipeline(tmp_path):
    foundation = load_foundation("tiny-random:animatediff", device="cpu", dtype=torch.float32)
    adapter = random_adapter(foundation)
    found = []
    for name, change in (("converted", converted), ("original", original)):
        save_file(motion_lora(adapter, change), tmp_path / f"{name}.safetensors")
        found.append(import_files([tmp_path / f"{name}.safetensors"], foundation).adapters["temporal"])
    assert all(torch.equal(found[0].tensors[name][1], b) for name, (_, b) in found[1].tensors.items())
    stock = AnimateDiffPipeline.from_pretrained(foundation.folder)
    stock.load_lora_weights(str(tmp_path), weight_name="converted.safetensors")
    request = with_adapter(foundation, found[0], prompt="a cat", seed=7)
    torch.testing.assert_close(
        our_latents(foundation, [request])[0], stock_latents(stock, foundation, request), atol=1e-4, rtol=0
    )


def test_parts_that_do_not_fit_are_refused_and_nothing_is_left(parts, tmp_path):
    (tmp_path / "taken").mkdir()
    wider = MotionAdapter(
        block_out_channels=(16, 16, 16),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=8,
    )
    wider.save_pretrained(tmp_path / "three-blocks")
    for base, motion, folder, sentence in (
        (parts / "v2", parts / "v2", "new", "expected a Stable Diffusion 1.5 checkpoint"),
        (parts / "sd", parts / "sd", "new", r"expected a motion adapter \(MotionAdapter\)"),
        (parts / "sd", parts / "v2", "taken", "exists already"),
        (parts / "sd", tmp_path / "three-blocks", "new", "cannot be combined: Incompatible Motion Adapter"),
    ):
        with pytest.raises(UserError, match=sentence):
            combine(base, motion, tmp_path / folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken", "three-blocks"]


def test_a_folder_that_is_not_one_unet_with_a_known_scheduler_is_refused_with_what_to_do(tmp_path):
    folder = write_tiny_animatediff(tmp_path / "model")

    def spoiled(file, change):
        before = (folder / file).read_text()
        content = json.loads(before)
        change(content)
        (folder / file).write_text(json.dumps(content))
        with pytest.raises(UserError) as caught:
            foundation_sizes(str(folder))
        (folder / file).write_text(before)
        return caught.value.message

    unet, index = "unet/config.json", "model_index.json"
    told = spoiled(unet, lambda content: content.update(_class_name="UNet2DConditionModel"))
    assert "has a UNet2DConditionModel as unet" in told
    assert "motiondirector foundations combine" in told
    assert "(PIA), which is not supported" in spoiled(unet, lambda content: content.update(in_channels=9))
    told = spoiled(index, lambda content: content.update(scheduler=["diffusers", "LCMScheduler"]))
    assert "has the scheduler LCMScheduler; expected one of DDIMScheduler" in told
