"""Wan image-to-video: the stock pipelines' latents from the same image; the frames' own images in training."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline
from diffusers.pipelines.wan import pipeline_wan_i2v
from PIL import Image
from stock_pipeline import our_latents, random_adapter, saved, stock_latents, tiny, with_adapter

from infra.errors import UserError
from models.denoise import start
from models.foundations.base import Bucket
from models.foundations.wan.wan_image import fitted
from models.generation import GenerationParams, InputImage
from models.inversion import invert
from models.load import load_foundation, locate

KINDS = ("wan-image", "wan-image-2.1")


def image(seed, height=32, width=32):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return InputImage(pixels_HWC=pixels, source=str(seed))


@pytest.fixture(autouse=True)
def ftfy(monkeypatch):
    """diffusers' pipeline of image-to-video does not work without this package; it leaves our prompts as they are."""
    same = SimpleNamespace(fix_text=lambda text: text)
    monkeypatch.setattr(pipeline_wan_i2v, "ftfy", same, raising=False)


def stock(kind, foundation, request, adapter=None):
    pipeline = WanImageToVideoPipeline.from_pretrained(locate(f"tiny-random:{kind}"))
    if adapter is not None:
        pipeline.load_lora_weights(str(adapter), weight_name="adapter_model.safetensors")
    given = Image.fromarray(request.image.pixels_HWC)
    return stock_latents(pipeline, foundation, request, image=given)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_other_images_has_the_stock_pipelines_latents(kind, tmp_path):
    foundation = tiny(kind)
    plain = GenerationParams(prompt="a cat", seed=7, steps=6, frames=9, image=image(1))
    one = {"prompt": "a dog", "seed": 8, "steps": 6, "guidance_scale": 4.0, "frames": 9, "image": image(2)}
    if foundation.experts:  # the stock loader takes one expert's adapter at a time
        other = with_adapter(foundation, random_adapter(foundation), **one)
        theirs = None
    else:
        other = with_adapter(foundation, saved(foundation, tmp_path), **one)
        theirs = stock(kind, foundation, other, tmp_path)
    base, adapted = our_latents(foundation, [plain, other])
    torch.testing.assert_close(base, stock(kind, foundation, plain), atol=1e-4, rtol=0)
    if theirs is not None:
        torch.testing.assert_close(adapted, theirs, atol=1e-4, rtol=0)
    unlike = plain.model_copy(update={"image": image(3)})
    assert (our_latents(foundation, [unlike])[0] - base).abs().max() > 1e-3, "the image counts"


def test_an_image_is_cropped_in_the_middle_and_never_stretched():
    pixels = np.zeros((64, 200, 3), np.uint8)
    pixels[:, 68:132] = 255
    assert (fitted(pixels, 32, 32)[:, 1:-1] > 200).all()
    same = image(0).pixels_HWC
    assert np.array_equal(fitted(same, 32, 32), same)


def test_a_model_and_a_request_must_agree_on_an_image():
    for kind, given, sentence in (
        ("wan-image", None, "none was given; give one"),
        ("wan", image(0), "makes videos from text alone, but an image was given"),
    ):
        with pytest.raises(UserError, match=sentence):
            start(tiny(kind), GenerationParams(prompt="a cat", image=given))


def test_training_noises_the_clip_and_keeps_its_first_frame():
    foundation, bucket = tiny("wan-image"), Bucket(5, 32, 32)
    video = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    clip, frames = foundation.encode_both(video)
    assert clip.shape[1:] == foundation.clip_shape(bucket) == (36, 2, 4, 4)
    assert frames.shape == (1, 5, 36, 1, 4, 4)
    eps, t = torch.randn_like(clip), torch.tensor([500.0])
    x_t, target = foundation.noised(clip, eps, t)
    assert torch.equal(x_t[:, 16:], clip[:, 16:])
    torch.testing.assert_close(target, eps[:, :16] - clip[:, :16])
    assert torch.equal(x_t[:, 16:20, 0], torch.ones(1, 4, 4, 4))
    assert not x_t[:, 16:20, 1].any()
    pixels = ((video[0, :, 0].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
    asked, _ = foundation.condition(
        InputImage(pixels_HWC=pixels, source=""), foundation.encode_text([""]), bucket
    )
    torch.testing.assert_close(asked, clip[:, 16:], atol=0.05, rtol=0)
    with pytest.raises(UserError, match="has no noise of its own"):
        invert(foundation, clip[0])
    with pytest.raises(UserError, match="through CLIP as well, which training does not support"):
        tiny("wan-image-2.1").encode_both(video)


@pytest.mark.parametrize(
    ("file", "key", "value", "sentence"),
    [
        ("model_index.json", "expand_timesteps", True, "Wan 2.2 5B from an image"),
        ("transformer/config.json", "in_channels", 16, "takes 16 channels; expected 36"),
    ],
)
def test_other_checkpoints_are_refused(tmp_path, file, key, value, sentence):
    folder = tmp_path / "model"
    shutil.copytree(locate("tiny-random:wan-image"), folder)
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**config, key: value}))
    with pytest.raises(UserError, match=sentence):
        load_foundation(folder, device="cpu")
