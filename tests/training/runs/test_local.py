"""Training in this process: what a run gives, on a foundation that is left as it was found."""

from dataclasses import dataclass

import pytest
import torch
from training_helpers import SMALL, random_clips, solo

from infra.errors import UserError
from models.denoise import sample
from models.generation import GenerationParams, SlotUse
from models.lora.routing import Mix, Routing
from training.adapters import describe, write_adapters
from training.config import make_config
from training.runs.local import train_local
from training.runs.samples import render

METHODS = ("dual", "no-debias", "coupled", "full", "appearance")
PATHS = {"coupled": ("spatial", "temporal"), "appearance": ("spatial",)}


@dataclass(frozen=True)
class Described:
    sha256: str
    caption: str


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[name][i], other[name][i]) for name in one for i in (0, 1)
    )


@pytest.mark.parametrize("method", METHODS)
def test_it_gives_what_a_pack_of_one_gives(foundation, method):
    clips = random_clips(foundation, 2)
    config = make_config({**SMALL, "method": method})
    steps = []
    tensors = train_local(foundation, "c", clips, config, on_step=lambda report: steps.append(report.loss))
    with solo(foundation, clips, method=method) as run:
        assert [report.loss for report in run.train()] == steps
        expected = run.tensors("c")
    assert tuple(tensors) == PATHS.get(method, ("temporal",))
    for path, layers in tensors.items():
        assert same(layers, expected[path])
        assert any(b.any() for _, b in layers.values())


def state(foundation):
    """Everything of the foundation that a training could leave changed."""
    denoiser = foundation.denoiser
    return {
        "values": {name: tensor.clone() for name, tensor in denoiser.state_dict().items()},
        "hooks": [len(module._forward_hooks) for module in denoiser.modules()],
        "forwards": [vars(module).get("forward") for module in denoiser.modules()],
        "training": [module.training for module in denoiser.modules()],
        "gradients": [(p.requires_grad, p.grad) for p in denoiser.parameters()],
    }


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("stopped", [False, True])
def test_the_foundation_is_left_as_it_was_found(foundation, checkpointing, stopped):
    clips = random_clips(foundation, 1)
    before = state(foundation)

    def stop(_report):
        if stopped:
            raise KeyboardInterrupt

    config = make_config({**SMALL, "gradient_checkpointing": checkpointing})
    try:
        train_local(foundation, "c", clips, config, on_step=stop)
    except KeyboardInterrupt:
        assert stopped
    after = state(foundation)
    values = after.pop("values")
    assert all(torch.equal(values[name], tensor) for name, tensor in before.pop("values").items())
    assert before == after
    assert foundation.bank is None
    assert not any(p.requires_grad for p in foundation.denoiser.parameters())


def test_a_bank_that_was_there_comes_back_with_its_adapters(unet3d):
    clips = random_clips(unet3d, 1)
    bank = unet3d.add_bank({"temporal": 1}, 2)
    for name, (a, b) in (layers := bank.extract("temporal", 1)).items():
        layers[name] = (a + 0.1, b + 0.1)
    bank.write("temporal", 1, layers)
    clip = clips[0]
    inputs = (clip.latents_CFHW[None], torch.tensor([500]), clip.text_LD[None])
    routing = Routing(temporal=Mix.of([[1]]))
    with torch.no_grad():
        before = unet3d.predict(*inputs, routing)
        train_local(unet3d, "c", clips, make_config({**SMALL, "steps": 1}))  # also where gradients are off
        assert unet3d.bank is bank
        assert torch.equal(unet3d.predict(*inputs, routing), before)


def test_settings_that_only_a_run_can_follow_are_refused(unet3d):
    for values, words in (
        ({"workers": 2}, "workers 2 and zero 0"),
        ({"zero": 2}, "workers 1 and zero 2"),
        ({"dtype": "bf16"}, "dtype bf16, but the foundation was loaded in fp32"),
    ):
        with pytest.raises(UserError, match=words):
            train_local(unet3d, "c", random_clips(unet3d, 1), make_config({**SMALL, **values}))
    assert unet3d.bank is None


@pytest.mark.parametrize("method", METHODS)
def test_trained_tensors_become_files_that_generation_reads(unet3d, tmp_path, method):
    config = make_config({**SMALL, "method": method, "learning_rate": 3e-2})
    tensors = train_local(unet3d, "spin", random_clips(unet3d, 1), config)
    metadata = describe(config, "spin", [Described("0" * 64, "a cat spins")])
    written = write_adapters(tmp_path / "one", unet3d, tensors, metadata)
    again = write_adapters(tmp_path / "two", unet3d, tensors, metadata)
    assert {path: adapter.sha256 for path, adapter in written.items()} == {
        path: adapter.sha256 for path, adapter in again.items()
    }
    assert (tmp_path / "one" / "adapter_model.safetensors").is_file() == (method != "appearance")
    assert (tmp_path / "one" / "spatial").exists() == (method in PATHS)
    for path, adapter in written.items():
        assert (adapter.path, adapter.concept) == (path, "spin")
        assert adapter.metadata["method"] == method
        assert (adapter.metadata["steps"], adapter.metadata["captions"]) == ("3", '["a cat spins"]')
        assert same(adapter.tensors, tensors[path])
    with_it = render(unet3d, tensors, ["a cat"], unet3d.defaults.bucket, seed=1)[0]
    uses = tuple(SlotUse(path=path, slot=1) for path in tensors)
    request = GenerationParams(prompt="a cat", seed=1)
    without = sample(unet3d, [request])[0]
    assert (with_it != without).any()
    assert (sample(unet3d, [GenerationParams(prompt="a cat", seed=1, adapters=uses)])[0] == with_it).all()
    first = tuple(use.model_copy(update={"steps": (0.0, 0.5)}) for use in uses)
    half = sample(unet3d, [GenerationParams(prompt="a cat", seed=1, adapters=first)])[0]
    assert (half != with_it).any()
    shown = render(unet3d, tensors, ["a cat"], unet3d.defaults.bucket, 1, (0.0, 0.5))[0]
    assert (shown == half).all()


def test_the_appearance_alone_is_one_lora_that_every_clip_trains_from_its_frames(foundation):
    clips = random_clips(foundation, 3)
    for clip in clips:
        clip.latents_CFHW.fill_(1e6)  # a whole clip is never looked at
    reports = []
    config = make_config({**SMALL, "method": "appearance", "steps": 6, "schedule": "linear"})
    tensors = train_local(foundation, "c", clips, config, on_step=reports.append)
    assert {report.temporal_loss for report in reports} == {0.0}
    assert all(0 < report.spatial_loss < 10 for report in reports)
    assert reports[0].learning_rate == config.learning_rate
    assert set(tensors["spatial"]) == set(foundation.targets["spatial"])
    with solo(foundation, clips, method="appearance") as run:
        bank = run.foundation.bank
        assert bank.slots == {"spatial": 1, "temporal": 0}
        assert bank.targets["temporal"] == ()
        assert run.member.slots() == {"spatial": 1, "temporal": 0}
    for clip in clips[1:]:
        clip.frame_latents_FC1HW.zero_()
    other = train_local(foundation, "c", clips, config)
    assert not same(tensors["spatial"], other["spatial"]), "all clips train it"


def test_the_appearance_of_single_frames_is_seen_in_whole_clips(unet3d):
    """The temporal layers are off in its training, and on when a video is made."""
    clips = random_clips(unet3d, 1)
    frame = clips[0].frame_latents_FC1HW[0]
    clips[0].frame_latents_FC1HW.copy_(frame.expand_as(clips[0].frame_latents_FC1HW))
    config = make_config({**SMALL, "method": "appearance", "steps": 60, "dropout": 0.0, "rank": 16})
    tensors = train_local(unet3d, "c", clips, config)
    noise = torch.randn(clips[0].latents_CFHW.shape, generator=torch.Generator().manual_seed(1))[None]
    still_1CFHW = frame.expand(-1, noise.shape[2], -1, -1)[None]
    time = unet3d.noise.timesteps(torch.tensor([0.6]))
    x_t, target = unet3d.noise.add(still_1CFHW, noise, time), unet3d.noise.target(still_1CFHW, noise, time)

    def error(routing):
        with torch.no_grad():
            return float(
                (unet3d.predict(x_t, time, clips[0].text_LD[None], routing) - target).square().mean()
            )

    bank = unet3d.add_bank({"spatial": 1}, 16)
    bank.write("spatial", 1, tensors["spatial"])
    assert error(Routing(spatial=Mix.of([[1]]))) < 0.94 * error(Routing())
