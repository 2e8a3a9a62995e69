"""HunyuanVideo: the stock pipeline's latents, embedded guidance, tokens of video and text."""

import json
import shutil

import pytest
import torch
from diffusers import HunyuanVideoPipeline
from stock_pipeline import our_latents, saved, stock_latents, tiny, with_adapter

from infra.errors import UserError
from models.denoise import start
from models.foundations.base import Bucket
from models.generation import GenerationParams
from models.load import load_foundation, locate


@pytest.fixture(scope="module")
def hunyuan():
    return tiny("hunyuan")


@pytest.fixture
def pipeline():
    return HunyuanVideoPipeline.from_pretrained(locate("tiny-random:hunyuan"))


def test_a_batch_of_other_guidance_and_adapters_has_the_stock_pipelines_latents(pipeline, tmp_path):
    foundation = tiny("hunyuan")
    adapter = saved(foundation, tmp_path)
    plain = GenerationParams(prompt="a cat", seed=7, frames=9)
    other = with_adapter(foundation, adapter, prompt="a dog that runs", seed=8, guidance_scale=1.0, frames=9)
    base, adapted = our_latents(foundation, [plain, other])
    without = our_latents(foundation, [other.model_copy(update={"adapters": ()})])[0]
    assert (adapted - without).abs().max() > 0.05, "the adapter acts"
    torch.testing.assert_close(base, stock_latents(pipeline, foundation, plain), atol=1e-4, rtol=0)
    pipeline.load_lora_weights(str(tmp_path), weight_name="adapter_model.safetensors")
    torch.testing.assert_close(adapted, stock_latents(pipeline, foundation, other), atol=1e-4, rtol=0)


def test_the_scale_of_guidance_and_both_texts_reach_the_model(hunyuan):
    latents, t = torch.randn(1, *hunyuan.latent_shape(Bucket(5, 32, 32))), torch.tensor([500.0])
    text = hunyuan.encode_text(["a cat"])
    with torch.no_grad():
        answers = [
            hunyuan.predict(latents, t, one)
            for one in (text, hunyuan.with_guidance(text, 6.0), hunyuan.encode_text(["a cow"]))
        ]
        pooled = text.clone()
        pooled[:, 0, 3] += 1
        answers.append(hunyuan.predict(latents, t, pooled))
    assert all((answer - answers[0]).abs().max() > 1e-5 for answer in answers[1:])


def test_a_negative_prompt_is_refused(hunyuan):
    with pytest.raises(UserError, match="reads no negative prompt"):
        start(hunyuan, GenerationParams(prompt="a cat", negative_prompt="blurry"))


def test_a_changed_latent_moves_its_own_token_before_those_of_the_text(hunyuan):
    bucket = Bucket(9, 48, 32)
    shape, text, taken = hunyuan.latent_shape(bucket), hunyuan.encode_text(["a cat"]), {}
    double, single = "transformer_blocks.0.attn.to_q", "single_transformer_blocks.0.attn.to_q"
    hooks = [
        hunyuan.denoiser.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: taken.setdefault(name, []).append(args[0].clone())
        )
        for name in (double, single)
    ]
    latents = torch.randn(1, *shape)
    other = latents.clone()
    other[0, :, 1, 5, 2] += 1
    with torch.no_grad():
        for given in (latents, other):
            hunyuan.predict(given, torch.tensor([500.0]), text)
    for hook in hooks:
        hook.remove()
    layout = hunyuan.token_layout(double, bucket)
    moved = (taken[double][1] - taken[double][0]).abs().sum(-1)[0].nonzero().flatten()
    assert [layout.cells_RT3[0, token].tolist() for token in moved] == [[1, 2, 1]]
    joint = hunyuan.token_layout(single, bucket)
    assert joint.means(torch.ones(9, 6, 4)).shape == taken[single][0].shape[1:2]
    assert (
        taken[double][0].shape[1] == len(layout.cells_RT3[0]) == taken[single][0].shape[1] - joint.text_after
    )
    later = (taken[single][1] - taken[single][0]).abs().sum(-1)[0]
    assert int(later.argmax()) == int(moved[0]), "the video comes first"


def test_appearance_tokens_are_read_after_the_text(hunyuan):
    latents, t = torch.randn(1, *hunyuan.latent_shape(Bucket(5, 32, 32))), torch.tensor([500.0])
    text = hunyuan.encode_text(["a cat"])
    with hunyuan.temporary_bank({"spatial": 1, "temporal": 1}, 2, trainable=True, tokens=2) as bank:
        with_tokens = bank.with_tokens(text, [1])
        read = [int(one[..., -1].sum()) for one in (text, with_tokens)]
        assert read[1] == read[0] + 2
        hunyuan.predict(latents, t, with_tokens).square().sum().backward()
        assert bank.tokens.change[0].grad.abs().min() > 0


def test_image_to_video_is_refused(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(locate("tiny-random:hunyuan"), folder)
    config = json.loads((folder / "transformer" / "config.json").read_text())
    (folder / "transformer" / "config.json").write_text(
        json.dumps({**config, "image_condition_type": "latent_concat"})
    )
    with pytest.raises(UserError, match="image-to-video, which is not supported"):
        load_foundation(folder, device="cpu")


@pytest.mark.parametrize("size", [(4, 32, 32), (5, 40, 32), (5, 32, 24)])
def test_a_size_that_it_cannot_make_is_refused(hunyuan, size):
    with pytest.raises(UserError, match="must be a multiple of"):
        hunyuan.check_bucket(Bucket(*size))
