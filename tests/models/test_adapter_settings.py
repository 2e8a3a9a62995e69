"""An adapter of stock PEFT, with any settings, adds what PEFT itself adds, or is refused in one sentence."""

from __future__ import annotations

import json
import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sample_adapters import random_adapter

from infra.errors import InvalidInput, UserError
from models.adapters.config import HEADER_KEY
from models.adapters.file import CONFIG_FILE, WEIGHTS_FILE, read_adapter, save_adapter
from models.adapters.publishing import ready_to_publish
from models.denoise import install, routing_of, start
from models.generation import GenerationParams
from models.load import load_foundation


@pytest.fixture(scope="module")
def foundation():
    return load_foundation("tiny-random:unet3d", device="cpu", dtype="float32")


@pytest.fixture
def unet():
    return load_foundation("tiny-random:unet3d", device="cpu", dtype="float32", parts=("denoiser",)).denoiser


@pytest.fixture
def inputs(foundation):
    generator = torch.Generator().manual_seed(1)
    config = foundation.denoiser.config
    latents = torch.randn(1, config.in_channels, 4, 8, 8, generator=generator)
    text = torch.randn(1, 5, config.cross_attention_dim, generator=generator)
    return latents, torch.tensor([10]), text


def train_with_peft(unet, folder, **settings):
    """A stock adapter of random weights, saved by PEFT."""
    torch.manual_seed(0)
    model = get_peft_model(unet, LoraConfig(init_lora_weights=False, **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    model.unload()
    return folder


@torch.no_grad()
def peft_answer(unet, folder, inputs):
    latents, time, text = inputs
    model = PeftModel.from_pretrained(unet, folder)
    answer = model(latents, time, text).sample
    model.unload()
    return answer


@torch.no_grad()
def our_answer(foundation, adapters, inputs):
    uses = install(foundation, {path: adapter.tensors for path, adapter in adapters.items()})
    request = GenerationParams(prompt="", guidance_scale=1.0, adapters=uses)
    latents, time, text = inputs
    return foundation.predict(latents, time, text, routing_of(foundation, [start(foundation, request)]))


TEMPORAL = r".*(transformer_in|temp_attentions).*attn1\.(to_q|to_k|to_v)"


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 16},
        {"r": 4, "lora_alpha": 3, "use_rslora": True},
        {"r": 3, "lora_alpha": 5, "fan_in_fan_out": True, "lora_dropout": 0.5},
        {"r": 4, "lora_alpha": 4, "alpha_pattern": {"to_q": 12, r".*transformer_in.*to_k": 1}},
        {"r": 4, "lora_alpha": 6, "rank_pattern": {"to_v": 2}, "alpha_pattern": {"to_v": 9}},
        {"r": 4, "lora_alpha": 6, "rank_pattern": {"to_v": 2}, "use_rslora": True},
        {"r": 2, "lora_alpha": 8, "target_modules": r".*attn1\.(to_q|to_v)"},
    ],
    ids=lambda settings: ",".join(settings),
)
def test_what_is_published_of_a_stock_adapter_answers_as_peft_does(
    tmp_path, foundation, unet, inputs, settings
):
    folder = train_with_peft(unet, tmp_path / "peft", **{"target_modules": TEMPORAL, **settings})
    theirs = peft_answer(unet, folder, inputs)
    with torch.no_grad():
        plain = unet(*inputs).sample
    with ready_to_publish(folder, foundation, "stock") as (ready, _):
        adapters = {"temporal": read_adapter(ready, foundation)}
        if (ready / "spatial").is_dir():  # the last one's `target_modules` name spatial attention too
            adapters["spatial"] = read_adapter(ready / "spatial", foundation)
        assert ("spatial" in adapters) == ("target_modules" in settings)
        ours = our_answer(foundation, adapters, inputs)
        bare = our_answer(
            foundation,
            {path: read_adapter(ready / file) for path, file in files_of(adapters).items()},
            inputs,
        )
        if "spatial" not in adapters:  # what is published is a stock adapter again
            torch.testing.assert_close(peft_answer(unet, ready, inputs), theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert torch.equal(ours, bare)  # a server reads the file alone
    assert (theirs - plain).abs().max() > 1e-3


def files_of(adapters):
    places = {"temporal": WEIGHTS_FILE, "spatial": f"spatial/{WEIGHTS_FILE}"}
    return {path: places[path] for path in adapters}


@pytest.fixture
def folder(tmp_path, foundation):
    """An adapter of this project."""
    save_adapter(tmp_path / "own", random_adapter(foundation, rank=2, scale=1.0), foundation)
    return tmp_path / "own"


ENDS = ["to_q", "to_k", "to_v", "to_out.0", "proj", "net.2"]


def set_config(folder, **settings):
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**config, **settings}))


def set_file(folder, change=lambda tensors: None, **metadata):
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as opened:
        known = dict(opened.metadata())
    tensors = load_file(folder / WEIGHTS_FILE)
    change(tensors)
    save_file(tensors, folder / WEIGHTS_FILE, metadata={**known, **metadata})


def factor(one, other):
    """What every layer of `other` adds as a multiple of what it adds in `one`."""
    factors = {
        round(float((b @ a).norm() / (one.tensors[name][1] @ one.tensors[name][0]).norm()), 5)
        for name, (a, b) in other.tensors.items()
    }
    return factors.pop() if len(factors) == 1 else factors


def test_an_own_adapter_is_published_byte_for_byte(folder, foundation):
    with ready_to_publish(folder, foundation, "x") as (ready, adapter):
        assert ready == folder
        assert adapter.canonical


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"lora_alpha": 8}, 4.0),
        ({"lora_alpha": 1}, 0.5),
        ({"lora_alpha": 0}, 0.0),
        ({"use_rslora": True}, round(math.sqrt(2), 5)),
        ({"lora_alpha": 2.0, "fan_in_fan_out": True, "lora_dropout": 0.3, "task_type": "X"}, 1.0),
    ],
)
def test_edited_settings_of_an_own_adapter_are_folded_in(folder, foundation, settings, expected):
    before = read_adapter(folder, foundation)
    set_config(folder, **settings)
    assert factor(before, read_adapter(folder, foundation)) == expected
    with ready_to_publish(folder, None, "x") as (ready, adapter):
        assert factor(before, read_adapter(ready / WEIGHTS_FILE, foundation)) == expected
        assert factor(before, read_adapter(ready, foundation)) == expected
        kept = {key: value for key, value in adapter.metadata.items() if key != "sha256"}
        assert kept == before.metadata
        assert json.loads((ready / CONFIG_FILE).read_text())["lora_alpha"] == 2
    assert json.loads((folder / CONFIG_FILE).read_text())["lora_alpha"] == settings.get("lora_alpha", 2)


def test_alphas_beside_the_tensors_and_in_the_header_are_folded_in(folder, foundation):
    before = read_adapter(folder, foundation)
    (folder / CONFIG_FILE).unlink()

    def add_alphas(tensors):
        for name in before.tensors:
            tensors[f"base_model.model.{name}.alpha"] = torch.tensor(6.0)

    set_file(folder, add_alphas)
    assert factor(before, read_adapter(folder, foundation)) == 3.0
    assert factor(before, read_adapter(folder / WEIGHTS_FILE, foundation)) == 3.0
    header = {"transformer.r": 2, "transformer.lora_alpha": 6, "transformer.peft_type": "LORA"}
    set_file(folder, **{HEADER_KEY: json.dumps(header)})
    assert factor(before, read_adapter(folder, foundation)) == 3.0
    header["transformer.lora_alpha"] = 2
    set_file(folder, **{HEADER_KEY: json.dumps(header)})
    with pytest.raises(UserError, match=r"its header .* by 1, but its alpha tensors by 3"):
        read_adapter(folder, foundation)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"use_dora": True}, "has use_dora"),
        ({"bias": "lora_only"}, "bias 'lora_only'"),
        ({"lora_bias": True}, "sets 'lora_bias'"),
        ({"modules_to_save": ["conv_in"]}, "sets 'modules_to_save'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights 'olora'"),
        ({"peft_type": "LOHA"}, "peft_type 'LOHA'"),
        ({"layer_replication": [[0, 2]]}, "sets 'layer_replication'"),
        ({"target_parameters": ["x"]}, "sets 'target_parameters'"),
        ({"use_qalora": True}, "sets 'use_qalora'"),
        ({"alora_invocation_tokens": [1]}, "sets 'alora_invocation_tokens'"),
        ({"megatron_config": {"x": 1}}, "sets 'megatron_config'"),
        ({"something_of_2030": True}, "sets 'something_of_2030'"),
        ({"target_modules": ["to_q"]}, "does not target"),
        ({"exclude_modules": ["to_q"]}, "does not target"),
        (
            {"layers_to_transform": [0], "layers_pattern": "down_blocks", "target_modules": ENDS},
            "does not target",
        ),
        ({"target_modules": ["to_["], "exclude_modules": "("}, "targets that PEFT does not understand"),
        ({"r": 4, "lora_alpha": 4}, "rank 4 for layer .* tensors have rank 2"),
        ({"r": None}, "r 'None'; expected a number"),
        ({"lora_alpha": "four"}, "lora_alpha 'four'; expected a number"),
        ({"lora_alpha": True}, "lora_alpha 'True'; expected a number"),
        ({"alpha_pattern": ["to_q"]}, "alpha_pattern that is not a mapping"),
        ({"alpha_pattern": {"(": 3}}, "not a regular expression"),
        ({"lora_alpha": 1e39}, "is not finite"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_change_the_result_otherwise_are_refused(folder, foundation, settings, sentence):
    set_config(folder, **settings)
    with pytest.raises(InvalidInput, match=sentence) as caught:
        read_adapter(folder, foundation)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("content", ["", "[1]", "not json", "[" * 100_000])
def test_settings_that_are_no_mapping_are_refused(folder, content):
    (folder / CONFIG_FILE).write_text(content)
    with pytest.raises(UserError, match="not a JSON object"):
        read_adapter(folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.update({"nowhere.alpha": torch.tensor(1.0)}), "an alpha but no lora_A"),
        (
            lambda t: t.update({next(iter(t)).replace("lora_A.weight", "alpha"): torch.ones(2)}),
            "expected one finite number",
        ),
        (lambda t: t.update({"x.lora_magnitude_vector": torch.ones(2)}), "it is a DoRA"),
    ],
    ids=["stray", "vector", "dora"],
)
def test_odd_tensors_beside_a_lora_are_refused(folder, change, sentence):
    set_file(folder, change)
    with pytest.raises(UserError, match=sentence):
        read_adapter(folder)


def test_a_dora_of_peft_is_refused(tmp_path, foundation, unet):
    folder = train_with_peft(unet, tmp_path / "dora", target_modules=TEMPORAL, r=2, use_dora=True)
    with pytest.raises(UserError, match="DoRA"), ready_to_publish(folder, foundation, "x"):
        pass


def test_a_stock_adapter_of_another_model_or_of_other_layers_is_refused(tmp_path, foundation, unet):
    other = train_with_peft(unet, tmp_path / "conv", target_modules=["time_embedding.linear_1"], r=2)
    with (
        pytest.raises(UserError, match=r"adapters of .* cannot change"),
        ready_to_publish(other, foundation, "x"),
    ):
        pass
    wide = load_foundation("tiny-random:wan", device="cpu", parts=("denoiser",))
    stock = train_with_peft(unet, tmp_path / "stock", target_modules=TEMPORAL, r=2)
    with pytest.raises(UserError, match=r"adapters of .* cannot change"), ready_to_publish(stock, wide, "x"):
        pass
