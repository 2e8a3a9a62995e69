"""Adapters of other tools: the same latents as the tool's own reader gives, every key accounted for, and files for them."""

import itertools
import json
import re

import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import load_file, save_file
from stock_pipeline import Stock, our_latents, random_adapter, stock_latents, tiny, with_adapter

from infra.errors import UserError
from models.adapters.export import export_files
from models.adapters.file import Adapter
from models.adapters.importing import import_files
from models.adapters.layouts import read_foreign
from models.denoise import install
from models.generation import GenerationParams
from models.load import locate

REQUEST = GenerationParams(prompt="a cat", seed=7, steps=4)


def everything(foundation, rank=4, part=""):
    """Random A and B for all layers that a LoRA of another tool changes, by the denoiser's own names."""
    generator = torch.Generator().manual_seed(3)
    found = {}
    for name in (*foundation.trained_targets["temporal"], *foundation.more_targets):
        if not name.startswith(part):
            continue
        layer = foundation.denoiser.get_submodule(name)
        a = torch.randn(rank, layer.in_features, generator=generator) * 0.2
        found[name.removeprefix(part)] = (a, torch.randn(layer.out_features, rank, generator=generator) * 0.2)
    return found


def original(foundation, name):
    return foundation.spec.original_names(name)[0][0]


def comfyui(foundation, tensors):
    keys = {}
    for name, (a, b) in tensors.items():
        keys[f"diffusion_model.{original(foundation, name)}.lora_A.weight"] = a
        keys[f"diffusion_model.{original(foundation, name)}.lora_B.weight"] = b
    return keys


def musubi(foundation, tensors, alpha=2.0, prefix="lora_unet_"):
    keys = {}
    for name, (a, b) in tensors.items():
        key = prefix + original(foundation, name).replace(".", "_")
        keys |= {
            f"{key}.lora_down.weight": a,
            f"{key}.lora_up.weight": b,
            f"{key}.alpha": torch.tensor(alpha),
        }
    return keys


def stock_keys(_, tensors):
    keys = {}
    for name, (a, b) in tensors.items():
        keys |= {f"transformer.{name}.lora_A.weight": a, f"transformer.{name}.lora_B.weight": b}
    return keys


def written(folder, name, keys, metadata=None):
    folder.mkdir(exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in keys.items()}, folder / name, metadata)
    return folder / name


def latents_of(foundation, adapters):
    foundation.widen()
    uses = install(foundation, {path: one.tensors for path, one in adapters.items()})
    return our_latents(foundation, [REQUEST.model_copy(update={"adapters": uses})])[0]


def stock(foundation, file):
    """The latents [1, C, f, h, w] of the stock pipeline with a file that it reads itself."""
    pipeline = Stock(foundation).pipeline
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    found = stock_latents(pipeline, foundation, REQUEST)
    if foundation.family == "ltx":
        found = pipeline._unpack_latents(found, *foundation.latent_shape(foundation.defaults.bucket)[1:])
    return found.movedim(-1, 1) if foundation.family == "kandinsky5" else found


@pytest.mark.parametrize(
    ("family", "write", "layout"),
    [
        ("wan", comfyui, "ComfyUI"),
        ("wan", musubi, "musubi-tuner"),
        ("wan", stock_keys, "diffusers"),
        ("skyreels", comfyui, "ComfyUI"),
        ("ltx", comfyui, "ComfyUI"),
        ("ltx", stock_keys, "diffusers"),
        ("hunyuan", stock_keys, "diffusers"),
        ("mochi", stock_keys, "diffusers"),
        ("kandinsky5", stock_keys, "diffusers"),
    ],
)
def test_an_imported_adapter_gives_the_latents_of_diffusers_own_reader(tmp_path, family, write, layout):
    foundation = tiny(family)
    file = written(tmp_path, "orbit.safetensors", write(foundation, everything(foundation)))
    made = import_files([file], foundation)
    assert made.files[file.name].layout == layout
    assert made.files[file.name].unmatched == ()
    ours = latents_of(foundation, made.adapters)
    torch.testing.assert_close(ours, stock(foundation, file), atol=1e-4, rtol=0)
    assert (ours - our_latents(foundation, [REQUEST])[0]).abs().max() > 0.05


@pytest.mark.parametrize(
    ("write", "layout", "factor"),
    [
        (lambda f, t: musubi(f, t, alpha=1.0), "musubi-tuner", 0.25),
        (lambda f, t: musubi(f, t, alpha=8.0, prefix="lora_unet__"), "Wan-Fun", 2.0),
        (
            lambda f, t: {
                key.removeprefix("diffusion_model.").replace(".weight", ".default.weight"): value
                for key, value in comfyui(f, t).items()
            },
            "DiffSynth",
            1.0,
        ),
        (
            lambda f, t: {
                **comfyui(f, t),
                **{
                    key.replace("lora_unet_blocks_", "diffusion_model.blocks.").replace(
                        "_self_attn_", ".self_attn."
                    ): value
                    for key, value in musubi(f, t, alpha=6.0).items()
                    if re.search(r"self_attn_.\.alpha", key)
                },
            },
            "ComfyUI",
            None,
        ),
    ],
)
def test_the_factor_is_that_of_the_layout(tmp_path, write, layout, factor):
    foundation = tiny("wan")
    tensors = everything(foundation)
    found = read_foreign(written(tmp_path, "a.safetensors", write(foundation, tensors)), foundation)
    assert found.layout == layout
    assert found.tensors.keys() == tensors.keys()
    for name, (a, b) in found.tensors.items():
        scale = (1.5 if ".attn1." in name else 1.0) if factor is None else factor
        torch.testing.assert_close((a, b), (tensors[name][0], tensors[name][1] * scale))


def test_a_fused_matrix_of_hunyuan_is_cut_into_its_layers(tmp_path):
    foundation = tiny("hunyuan")
    tensors, keys = everything(foundation), {}
    fused = {}
    for name in tensors:
        own, number = foundation.spec.original_names(name)[-1]
        fused.setdefault(own, {})[number] = name
    for own, of in fused.items():
        a = tensors[of[0]][0]
        layers = [of[number] for number in sorted(of)]
        keys[f"transformer.{own}.lora_A.weight"] = a
        keys[f"transformer.{own}.lora_B.weight"] = torch.cat([tensors[name][1] for name in layers])
        for name in layers:
            tensors[name] = (a, tensors[name][1])
    found = read_foreign(written(tmp_path, "a.safetensors", keys), foundation)
    assert found.unmatched == ()
    assert {"attn_qkv", "linear1"} <= {own.split(".")[-1].removeprefix("img_") for own in fused}
    for name, pair in tensors.items():
        torch.testing.assert_close(found.tensors[name], pair)


def test_every_key_is_accounted_for(tmp_path):
    foundation = tiny("wan")
    more = {
        "diffusion_model.blocks.0.self_attn.norm_q.diff": torch.ones(3),
        "diffusion_model.blocks.0.self_attn.q.diff_b": torch.ones(3),
        "diffusion_model.time_projection.1.lora_A.weight": torch.ones(4, 32),
        "diffusion_model.time_projection.1.lora_B.weight": torch.ones(192, 4),
    }
    file = written(tmp_path, "a.safetensors", {**comfyui(foundation, everything(foundation)), **more})
    with pytest.raises(UserError, match=r"4 of its keys name no layer .* give --partial"):
        import_files([file], foundation)
    assert set(import_files([file], foundation, partial=True).files[file.name].unmatched) == set(more)


def test_two_files_of_wan_22_and_one_of_them(tmp_path):
    foundation = tiny("wan22")
    files = [
        written(
            tmp_path,
            f"orbit_{name}_noise.safetensors",
            comfyui(foundation, everything(foundation, part=f"{name}_noise.")),
        )
        for name in ("high", "low")
    ]
    both = import_files(files, foundation).adapters["temporal"]
    theirs = WanPipeline.from_pretrained(locate("tiny-random:wan22"))
    theirs.load_lora_weights(str(tmp_path), weight_name=files[0].name)
    theirs.load_lora_weights(str(tmp_path), weight_name=files[1].name, load_into_transformer_2=True)
    expected = stock_latents(theirs, foundation, REQUEST)
    torch.testing.assert_close(latents_of(foundation, {"temporal": both}), expected, atol=1e-4, rtol=0)
    alone = import_files([], tiny("wan22"), low_noise=files[1]).adapters["temporal"]
    for name, (_, b) in alone.tensors.items():
        assert bool(b.any()) == name.startswith("low_noise."), name
    other = written(tmp_path, "orbit.safetensors", load_file(files[0]))
    with pytest.raises(UserError, match=r"not clear which of them orbit\.safetensors is for"):
        import_files([other], tiny("wan22"))
    with pytest.raises(UserError, match="has one denoiser"):
        import_files(files, tiny("wan"))


@pytest.mark.parametrize(
    ("family", "layout"),
    [
        *itertools.product(("wan", "ltx", "skyreels"), ("comfyui", "diffusers")),
        ("mochi", "diffusers"),
        ("kandinsky5", "diffusers"),
    ],
)
def test_an_exported_file_gives_our_latents_in_the_stock_pipeline(tmp_path, family, layout):
    foundation = tiny(family)
    adapters = [random_adapter(foundation), random_adapter(foundation, "spatial", rank=2, seed=5)]
    adapters = [marked(adapter, foundation) for adapter in adapters]
    (file,) = export_files(foundation, adapters, tmp_path, "orbit", layout, scale=0.5)
    start = "diffusion_model." if layout == "comfyui" else "transformer."
    assert all(key.startswith(start) for key in load_file(file))
    uses = install(foundation, {one.path: one.tensors for one in adapters})
    uses = tuple(use.model_copy(update={"scale": 0.5}) for use in uses)
    ours = our_latents(foundation, [REQUEST.model_copy(update={"adapters": uses})])[0]
    torch.testing.assert_close(ours, stock(foundation, file), atol=1e-4, rtol=0)


def marked(adapter, foundation):
    """As `save_adapter` would have written it."""
    about = {"foundation_fingerprint": foundation.fingerprint, "foundation": foundation.name}
    return Adapter(adapter.path, adapter.rank, adapter.tensors, about)


def test_both_experts_are_exported_and_one_that_is_left_alone_is_not(tmp_path):
    foundation = tiny("wan22")
    adapter = marked(random_adapter(foundation), foundation)
    files = export_files(foundation, [adapter], tmp_path, "orbit", "comfyui")
    assert [file.name for file in files] == ["orbit_high_noise.safetensors", "orbit_low_noise.safetensors"]
    theirs = WanPipeline.from_pretrained(locate("tiny-random:wan22"))
    theirs.load_lora_weights(str(tmp_path), weight_name=files[0].name)
    theirs.load_lora_weights(str(tmp_path), weight_name=files[1].name, load_into_transformer_2=True)
    expected = stock_latents(theirs, foundation, REQUEST)
    ours = with_adapter(foundation, adapter, **{"prompt": "a cat", "seed": 7, "steps": 4})
    torch.testing.assert_close(our_latents(foundation, [ours])[0], expected, atol=1e-4, rtol=0)
    low = {
        name: (a, b if name.startswith("low") else torch.zeros_like(b))
        for name, (a, b) in adapter.tensors.items()
    }
    half = Adapter("temporal", adapter.rank, low, adapter.metadata)
    (file,) = export_files(foundation, [half], tmp_path / "half", "orbit", "diffusers")
    assert file.name == "orbit_low_noise.safetensors"


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"lora_unet_down_blocks_0.lora_down.weight": torch.ones(2, 2)}, "adapter of another model"),
        ({"diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.ones(2, 32)}, "expected A and B"),
        (
            {
                "diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.ones(2, 48),
                "diffusion_model.blocks.0.self_attn.q.lora_B.weight": torch.ones(48, 2),
            },
            "another size of the model",
        ),
        (
            {
                "diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.full((2, 32), torch.nan),
                "diffusion_model.blocks.0.self_attn.q.lora_B.weight": torch.ones(32, 2),
            },
            "NaN or infinite",
        ),
        ({"diffusion_model.blocks.0.self_attn.q.dora_scale": torch.ones(2)}, "it is a DoRA"),
    ],
)
def test_what_cannot_be_imported_is_one_sentence(tmp_path, keys, sentence):
    with pytest.raises(UserError, match=sentence):
        read_foreign(written(tmp_path, "a.safetensors", keys), tiny("wan"))


def test_a_pickle_is_not_read_and_a_header_or_a_configuration_says_alpha(tmp_path):
    foundation = tiny("wan")
    torch.save({}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="pickle"):
        read_foreign(tmp_path / "a.safetensors", foundation)
    tensors, name = everything(foundation), "blocks.0.attn1.to_q"
    told = json.dumps({"transformer.r": 4, "transformer.lora_alpha": 2})
    header = written(tmp_path, "b.safetensors", stock_keys(None, tensors), {"lora_adapter_metadata": told})
    beside = written(tmp_path / "diffusion-pipe", "adapter_model.safetensors", comfyui(foundation, tensors))
    (beside.parent / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 12, "target_modules": ["self_attn.q"]})
    )
    for file, factor in ((header, 0.5), (beside, 3.0)):
        torch.testing.assert_close(read_foreign(file, foundation).tensors[name][1], tensors[name][1] * factor)
