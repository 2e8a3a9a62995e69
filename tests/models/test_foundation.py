"""Loading: parts, devices, precisions, fingerprints, refusals; targets of noise. (conformance/ has what every family promises.)"""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import TextToVideoSDPipeline, UNet3DConditionModel, WanPipeline
from diffusers.models.resnet import TemporalConvLayer
from torch import nn

from infra.errors import UserError
from models.foundations.base import Foundation
from models.foundations.shared.noise import FlowNoise
from models.foundations.unets.unet3d import convolve_over_frames_in_two_dimensions
from models.load import load_foundation
from models.tiny import RECIPES
from models.tiny.unets import write_tiny_unet3d


def devices(foundation):
    modules = [m for m in foundation.pipeline.components.values() if isinstance(m, nn.Module)]
    return {parameter.device.type for module in modules for parameter in module.parameters()}


def test_every_part_moves_where_it_is_not_yet(foundation, monkeypatch):
    def moved(*_):
        raise AssertionError("it is there already")

    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "to", moved)
        foundation.to("cpu")
    assert devices(foundation) == {"cpu"}
    foundation.to("meta")
    assert devices(foundation) == {"meta"}
    assert foundation.device.type == "meta"


def test_a_gpu_that_is_left_has_its_memory_again(foundation, monkeypatch):
    moved = []
    monkeypatch.setattr(Foundation, "device", property(lambda self: torch.device("cuda", 0)))
    monkeypatch.setattr("models.foundations.base.move_parts", lambda pipeline, device: moved.append(device))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: moved.append("emptied"))
    foundation.to("cpu")
    assert moved == ["cpu", "emptied"]


def test_a_single_frame_skips_every_temporal_layer():
    unet3d = load_foundation("tiny-random:unet3d")
    temporal = [
        name
        for name, module in unet3d.denoiser.named_modules()
        if ("temp_" in name or name.startswith("transformer_in"))
        and isinstance(module, nn.Linear | nn.Conv3d)
    ]
    ran = []
    for name in temporal:
        unet3d.denoiser.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    channels, _, height, width = unet3d.latent_shape(unet3d.defaults.bucket)
    text = unet3d.encode_text(["a cat"])
    with torch.no_grad():
        unet3d.predict(torch.randn(1, channels, 1, height, width), torch.tensor([500]), text)
        assert ran == []
        unet3d.predict(torch.randn(1, channels, 4, height, width), torch.tensor([500]), text)
    assert set(ran) == set(temporal)


def test_the_denoiser_knows_its_type_of_numbers_and_is_saved_under_its_class_s_name(tmp_path):
    for dtype in (torch.float32, torch.bfloat16):
        denoiser = load_foundation("tiny-random:unet3d", device="cpu", dtype=dtype).denoiser
        assert denoiser.dtype == dtype
        assert denoiser.to(torch.float64).dtype == torch.float64
    assert isinstance(denoiser, UNet3DConditionModel)
    denoiser.to(torch.float32).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == "UNet3DConditionModel"
    again = UNet3DConditionModel.from_pretrained(tmp_path)
    assert all(torch.equal(value, denoiser.state_dict()[name]) for name, value in again.state_dict().items())


def test_temporal_convolutions_in_two_dimensions_are_the_same_sums():
    layer = TemporalConvLayer(8, 8, dropout=0.0, norm_num_groups=4).eval().double()
    nn.init.normal_(layer.conv4[-1].weight)  # which begins at zero
    latents = torch.randn(2 * 4, 8, 6, 5, dtype=torch.float64, requires_grad=True)
    expected = layer(latents, num_frames=4)
    wanted = torch.autograd.grad(expected.square().sum(), [latents, *layer.parameters()])
    convolve_over_frames_in_two_dimensions(layer)
    found = layer(latents, num_frames=4)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), [latents, *layer.parameters()]), wanted, strict=True
    ):
        torch.testing.assert_close(one, other)


def test_a_convolution_over_more_than_frames_stays_one():
    layer = TemporalConvLayer(8, 8, norm_num_groups=4)
    layer.conv4[-1] = wide = nn.Conv3d(8, 8, 3, padding=1)
    convolve_over_frames_in_two_dimensions(layer)
    assert "forward" not in vars(wide)
    assert "forward" in vars(layer.conv1[-1])


def test_the_fingerprint_is_the_weights(tmp_path):
    one = load_foundation(write_tiny_unet3d(tmp_path / "one", seed=1))
    same = load_foundation(write_tiny_unet3d(tmp_path / "same", seed=1))
    other = load_foundation(write_tiny_unet3d(tmp_path / "other", seed=2))
    velocity = load_foundation(write_tiny_unet3d(tmp_path / "v", seed=1, prediction_type="v_prediction"))
    assert one.fingerprint == same.fingerprint
    assert len({one.fingerprint, other.fingerprint, velocity.fingerprint}) == 3


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_ddpm_targets_recover_the_clean_latents(tmp_path, prediction_type):
    foundation = load_foundation(write_tiny_unet3d(tmp_path / "m", prediction_type=prediction_type))
    x0, eps = torch.randn(3, 4, 4, 4, 4), torch.randn(3, 4, 4, 4, 4)
    t = foundation.noise.timesteps(torch.tensor([0.0, 0.5, 0.99]))
    noisy, target = foundation.noise.add(x0, eps, t), foundation.noise.target(x0, eps, t)
    alpha = foundation.noise.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1, 1)
    if prediction_type == "epsilon":
        recovered = (noisy - (1 - alpha).sqrt() * target) / alpha.sqrt()
    else:
        recovered = alpha.sqrt() * noisy - (1 - alpha).sqrt() * target
    assert torch.allclose(recovered, x0, atol=1e-4)


def test_flow_targets_recover_the_clean_latents():
    noise = FlowNoise(1000, shift=3.0)
    x0, eps = torch.randn(2, 16, 2, 4, 4), torch.randn(2, 16, 2, 4, 4)
    t = noise.timesteps(torch.tensor([0.2, 0.8]))
    noisy, velocity = noise.add(x0, eps, t), noise.target(x0, eps, t)
    assert torch.allclose(noisy - (t / 1000).view(-1, 1, 1, 1, 1) * velocity, x0, atol=1e-5)


def test_timesteps_keep_to_their_range(foundation):
    u = torch.rand(1000)
    low = foundation.noise.timesteps(torch.zeros(1), 0.35, 1.0)
    t = foundation.noise.timesteps(u, 0.35, 1.0)
    assert low.item() == t.min().clamp(max=low.item()).item()
    assert t.max() < 1000


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("/nowhere/at/all", "neither a folder here nor a hub id"),
        ("tiny-random:cat", r"expected one of .*unet3d.*wan"),
        ("{empty}", "is not a diffusers pipeline"),
        ("{other}", "which is not supported"),
    ],
)
def test_what_is_no_foundation_is_refused_in_one_sentence(tmp_path, source, sentence):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(UserError, match=sentence):
        load_foundation(source.format(empty=tmp_path / "empty", other=tmp_path / "other"))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"device": "gpu"}, "device 'gpu' cannot be used on this machine"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used on this machine"),
        (
            {"device": "cpu", "dtype": "half"},
            "dtype 'half' is not known; expected one of fp32, bf16, fp16 \\(or float32",
        ),
    ],
)
def test_a_device_or_precision_that_is_none_is_refused_in_one_sentence(given, sentence):
    with pytest.raises(UserError, match=sentence):
        load_foundation("tiny-random:unet3d", parts=(), **given)


def test_precisions_may_be_called_as_trainings_call_them():
    assert load_foundation("tiny-random:unet3d", parts=(), dtype="bf16").dtype is torch.bfloat16


def test_pickled_weights_are_not_loaded(tmp_path):
    folder = write_tiny_unet3d(tmp_path / "m")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({"a": torch.ones(1)}, folder / "unet" / "diffusion_pytorch_model.bin")
    weights.unlink()
    told = r"no safetensors for unet, .*TextToVideoSDPipeline.from_pretrained\(.*safe_serialization=True"
    with pytest.raises(UserError, match=told):
        load_foundation(folder)


def test_a_repository_of_pickles_loads_once_it_is_converted_as_the_refusal_says(tmp_path):
    folder = write_tiny_unet3d(tmp_path / "m")
    pipeline = TextToVideoSDPipeline.from_pretrained(folder)
    pipeline.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    with pytest.raises(UserError, match="no safetensors for unet and vae"):
        load_foundation(tmp_path / "pickled")
    again = TextToVideoSDPipeline.from_pretrained(tmp_path / "pickled")
    again.save_pretrained(tmp_path / "converted", safe_serialization=True)
    converted, first = load_foundation(tmp_path / "converted"), load_foundation(folder)
    for name, weight in first.denoiser.state_dict().items():
        torch.testing.assert_close(converted.denoiser.state_dict()[name], weight, rtol=0, atol=0)


@pytest.mark.parametrize("family", sorted(RECIPES))
def test_sizes_and_defaults_need_no_weights(family, tmp_path):
    whole = load_foundation(f"tiny-random:{family}")
    folder = tmp_path / "no-weights"
    shutil.copytree(whole.folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    outline = load_foundation(folder, parts=())
    assert outline.defaults == whole.defaults
    assert outline.targets == whole.targets
    assert outline.latent_shape(whole.defaults.bucket) == whole.latent_shape(whole.defaults.bucket)
    with pytest.raises(UserError):
        outline.check_bucket(replace(whole.defaults.bucket, height=33))


@pytest.mark.parametrize("family", sorted(RECIPES))
def test_a_denoiser_that_is_cut_into_shares_stays_on_the_cpu_and_text_is_encoded_where_its_encoder_is(
    family, monkeypatch
):
    # The meta device stands for one that the denoiser does not fit.
    apart = load_foundation(f"tiny-random:{family}", device="meta", denoiser_on_cpu=True)
    places = {
        name: module.device.type
        for name, module in apart.pipeline.components.items()
        if isinstance(module, nn.Module)
    }
    denoisers = {component for component, _ in apart.denoisers.values()}
    assert {name for name, place in places.items() if place == "cpu"} == denoisers
    assert set(places.values()) == {"cpu", "meta"}

    def encode(*arguments, device=None, **_):
        raise Asked(device or arguments[1])

    monkeypatch.setattr(apart.pipeline, "encode_prompt", encode)
    monkeypatch.setattr(WanPipeline, "_get_t5_prompt_embeds", encode)
    with pytest.raises(Asked, match="meta"):
        apart.encode_text(["a fox"])


class Asked(Exception):
    """Where a text was to be encoded."""


def test_a_worker_may_load_the_denoiser_alone():
    alone = load_foundation("tiny-random:unet3d", parts=("denoiser",))
    whole = load_foundation("tiny-random:unet3d")
    assert alone.pipeline.vae is None
    assert alone.pipeline.text_encoder is None
    assert alone.fingerprint == whole.fingerprint
