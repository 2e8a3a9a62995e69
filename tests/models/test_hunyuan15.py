"""HunyuanVideo 1.5: two texts with masks, its files, and checkpoints that are refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from stock_pipeline import tiny

from infra.errors import UserError
from models.adapters.layouts import read_foreign
from models.foundations.base import Bucket
from models.load import load_foundation, locate

BUCKET = Bucket(5, 32, 32)


@pytest.fixture(scope="module")
def model():
    return tiny("hunyuan15")


def inputs(model, samples=1):
    shape = (samples, *model.latent_shape(BUCKET))
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)), torch.full((samples,), 500.0)


def test_words_in_quotation_marks_are_also_read_as_glyphs(model):
    latents, t = inputs(model)
    plain, quoted = model.encode_text(["a sign", 'a sign "OPEN"'])
    assert not plain[:256, -1].any()
    assert quoted[:256, -1].any()
    without = quoted.clone()
    without[:256] = 0
    with torch.no_grad():
        read, unread = (model.predict(latents, t, text[None]) for text in (quoted, without))
    assert (read - unread).abs().max() > 1e-5


def test_padding_is_not_read_and_a_longer_neighbour_changes_nothing(model):
    (latents, t), text = (
        inputs(model, 2),
        model.encode_text(["a cat", 'a much longer prompt that says "hello"']),
    )
    other = text.clone()
    other[..., :-1] += (1 - text[..., -1:]) * 3
    with torch.no_grad():
        both = model.predict(latents, t, text)
        torch.testing.assert_close(model.predict(latents, t, other), both)
        torch.testing.assert_close(
            model.predict(latents[:1], t[:1], text[:1]), both[:1], atol=1e-5, rtol=1e-5
        )


def test_appearance_tokens_are_read_and_learn_in_a_batch_of_other_lengths(model):
    (latents, t), text = inputs(model, 2), model.encode_text(["a cat", "a much longer prompt"])
    with model.temporary_bank({"spatial": 2, "temporal": 1}, 2, trainable=True, tokens=2) as bank:
        model.predict(latents, t, bank.with_tokens(text, [1, 2])).square().sum().backward()
        assert all(
            change.grad.abs().min() > 0 and change.grad.isfinite().all() for change in bank.tokens.change
        )


def test_a_worker_that_only_trains_needs_no_vae(model):
    """Though the stock pipeline's constructor asks it for its channels."""
    worker = load_foundation("tiny-random:hunyuan15", device="cpu", parts=("denoiser",))
    assert worker.targets == model.targets
    assert next(worker.pipeline.vae.parameters()).is_meta
    latents, t = inputs(model)
    text = model.encode_text(["a cat"])
    with torch.no_grad():
        torch.testing.assert_close(worker.predict(latents, t, text), model.predict(latents, t, text))


@pytest.mark.parametrize("kind", ["one matrix", "apart"])
def test_files_of_other_tools_are_cut_into_layers(model, tmp_path, kind):
    """ComfyUI's file has q, k and v in one matrix, of three times the rank; the authors' code has three."""
    draw, keys, expected = torch.Generator().manual_seed(0), {}, {}
    names = [f"transformer_blocks.0.attn.to_{one}" for one in "qkv"]
    for name in names:
        expected[name] = tuple(torch.randn(size, generator=draw) for size in ((2, 24), (24, 2)))
    if kind == "apart":
        for name, (a, b) in expected.items():
            key = f"lora_unet_double_blocks_0_img_attn_{name[-1]}"
            keys |= {
                f"{key}.lora_down.weight": a,
                f"{key}.lora_up.weight": b,
                f"{key}.alpha": torch.tensor(2.0),
            }
    else:
        key = "diffusion_model.double_blocks.0.img_attn.qkv"
        keys[f"{key}.lora_A.weight"] = torch.cat([a for a, _ in expected.values()])
        keys[f"{key}.lora_B.weight"] = torch.block_diag(*(b for _, b in expected.values()))
    save_file(keys, tmp_path / "a.safetensors")
    found = read_foreign(tmp_path / "a.safetensors", model)
    assert found.unmatched == ()
    for name, (a, b) in expected.items():
        found_a, found_b = found.tensors[name]
        torch.testing.assert_close(found_b @ found_a, b @ a)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"task_type": "i2v"}, "not HunyuanVideo 1.5's text-to-video"), ({"use_meanflow": True}, "MeanFlow")],
)
def test_other_transformers_are_refused(tmp_path, change, sentence):
    folder = shutil.copytree(locate("tiny-random:hunyuan15"), tmp_path / "model")
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UserError, match=sentence):
        load_foundation(folder, device="cpu")
