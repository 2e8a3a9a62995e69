"""LTX-Video: the stock pipeline's latents, its tokens, its texts with a mask."""

import pytest
import torch
from diffusers import LTXPipeline
from stock_pipeline import our_latents, saved, stock_latents, tiny, with_adapter

from infra.errors import UserError
from models.foundations.base import Bucket
from models.generation import GenerationParams
from models.load import locate

SIZE = {"frames": 17, "height": 96, "width": 64}


@pytest.fixture(scope="module")
def ltx():
    return tiny("ltx")


def stock(foundation, request, adapter=None):
    pipeline = LTXPipeline.from_pretrained(locate("tiny-random:ltx"))
    if adapter is not None:
        pipeline.load_lora_weights(str(adapter), weight_name="adapter_model.safetensors")
    packed = stock_latents(pipeline, foundation, request)
    _, frames, height, width = foundation.latent_shape(request.resolved(foundation.defaults).bucket)
    return pipeline._unpack_latents(packed, frames, height, width)


def test_alone_and_beside_an_adapter_latents_are_the_stock_pipelines(tmp_path):
    foundation = tiny("ltx")
    adapter = saved(foundation, tmp_path)
    plain = GenerationParams(prompt="a cat", seed=7, **SIZE)
    other = with_adapter(
        foundation, adapter, prompt="a dog that runs", seed=8, guidance_scale=5.0, steps=4, **SIZE
    )
    base, adapted = our_latents(foundation, [plain, other])
    torch.testing.assert_close(base, stock(foundation, plain), atol=1e-4, rtol=0)
    torch.testing.assert_close(adapted, stock(foundation, other, tmp_path), atol=1e-4, rtol=0)
    without = other.model_copy(update={"adapters": ()})
    assert (adapted - our_latents(foundation, [without])[0]).abs().max() > 0.05, "the adapter acts"


def test_frames_are_decoded_as_the_stock_pipeline_does(ltx):
    request = GenerationParams(prompt="a cat", seed=7)
    latents = our_latents(ltx, [request])[0]
    theirs = LTXPipeline.from_pretrained(locate("tiny-random:ltx"))
    theirs.set_progress_bar_config(disable=True)
    bucket = ltx.defaults.bucket
    video = theirs(
        prompt="a cat",
        negative_prompt=ltx.defaults.negative_prompt,
        num_frames=bucket.frames,
        height=bucket.height,
        width=bucket.width,
        frame_rate=ltx.defaults.fps,
        num_inference_steps=ltx.defaults.num_inference_steps,
        guidance_scale=ltx.defaults.guidance_scale,
        generator=torch.Generator().manual_seed(7),
        output_type="np",
    ).frames
    ours = ltx.decode(latents).float() / 255
    assert (ours - torch.from_numpy(video)).abs().max() < 2 / 255


def test_a_clips_latents_are_those_that_its_vae_and_statistics_give(ltx):
    video = torch.rand(1, 3, 9, 64, 64) * 2 - 1
    latents = ltx.encode_video(video)
    assert latents.shape[1:] == ltx.latent_shape(Bucket(9, 64, 64)) == (8, 2, 2, 2)
    vae = ltx.pipeline.vae
    mean, std = (vector.view(1, -1, 1, 1, 1) for vector in (vae.latents_mean, vae.latents_std))
    with torch.no_grad():
        torch.testing.assert_close(latents * std + mean, vae.encode(video).latent_dist.mode())
    frames = ltx.encode_frames(video)
    torch.testing.assert_close(frames[:, 3], ltx.encode_video(video[:, :, 3:4]))


def test_a_changed_latent_moves_its_own_token(ltx):
    bucket = Bucket(17, 96, 64)
    layer = "transformer_blocks.0.attn1.to_q"
    layout, shape = ltx.token_layout(layer, bucket), ltx.latent_shape(bucket)
    latents = torch.randn((1, *shape), generator=torch.Generator().manual_seed(0))
    text, taken = ltx.encode_text(["a cat"]), []
    hook = ltx.denoiser.get_submodule(layer).register_forward_pre_hook(
        lambda _, args: taken.append(args[0].detach().clone())
    )
    for change in (None, (0, 0, 1), (2, 2, 0)):
        given = latents.clone()
        if change:
            given[(0, slice(None), *change)] += 1
        with torch.no_grad():
            ltx.predict(given, torch.tensor([500.0]), text)
        if change:
            moved = (taken[-1] - taken[0]).abs().sum(-1)[0].nonzero().flatten()
            assert [layout.cells_RT3[0, token].tolist() for token in moved] == [list(change)]
    hook.remove()
    assert layout.region(0, len(layout.cells_RT3[0]) - 1) == (range(9, 17), range(64, 96), range(32, 64))


def test_padding_of_a_text_is_not_read_and_appearance_tokens_are(ltx):
    latents, t = torch.randn(1, *ltx.latent_shape(Bucket(9, 64, 64))), torch.tensor([500.0])
    text = ltx.encode_text(["a cat"])
    other = text.clone()
    other[:, -4:, :-1] += 1
    with torch.no_grad():
        assert torch.equal(ltx.predict(latents, t, text), ltx.predict(latents, t, other))
    with ltx.temporary_bank({"spatial": 1, "temporal": 1}, 2, trainable=True, tokens=2) as bank:
        ltx.predict(latents, t, bank.with_tokens(text, [1])).sum().backward()
        assert bank.tokens.change[0].grad.abs().min() > 0
        assert torch.equal(bank.with_tokens(text, [0]), text)


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ((16, 64, 64), r"frame count 16 .* multiple of 8 plus 1, such as 9"),
        ((9, 80, 64), r"height 80 .* multiple of 32, such as 64"),
        ((9, 64, 33), r"width 33 .* multiple of 32"),
    ],
)
def test_a_size_that_it_cannot_make_is_refused(ltx, size, sentence):
    with pytest.raises(UserError, match=sentence):
        ltx.check_bucket(Bucket(*size))
