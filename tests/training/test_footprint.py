"""Memory computed from configurations: weights exactly, allocations as the profiler measures them in real training steps."""

from dataclasses import replace

import diffusers
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from infra.errors import UserError
from models.load import load_foundation
from models.scale.footprint import Footprint, footprint
from models.scale.needs import TRAINING, ServingPlan, TrainingPlan, first_that_fits
from models.scale.published import PUBLISHED, write_configurations
from models.sizes import Bucket
from training.batch.profile.measure import RandomClip
from training.config import make_config
from training.loop.group import group_key
from training.loop.member import Member
from training.loop.pack import Capacity, Pack

RANK = 4
# Published configurations with fewer and narrower layers, at sizes at which activations outweigh everything else.
SMALL = {
    "zeroscope": (
        {
            "block_out_channels": [64, 128],
            "layers_per_block": 1,
            "cross_attention_dim": 64,
            "attention_head_dim": 32,
        }
        | {
            "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
            "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
        },
        Bucket(8, 64, 64),
    ),
    "wan-2.1-1.3b": (
        {"num_attention_heads": 2, "num_layers": 2, "ffn_dim": 1024, "text_dim": 64},
        Bucket(17, 256, 256),
    ),
    "hunyuan-video": (
        {
            "num_attention_heads": 2,
            "num_layers": 1,
            "num_single_layers": 2,
            "text_embed_dim": 64,
            "pooled_projection_dim": 64,
        },
        Bucket(17, 256, 256),
    ),
    "cogvideox-5b": ({"num_attention_heads": 4, "num_layers": 2, "text_embed_dim": 64}, Bucket(17, 256, 256)),
    "ltx-2b": (
        {"num_attention_heads": 8, "cross_attention_dim": 512, "num_layers": 2, "caption_channels": 64},
        Bucket(33, 512, 512),
    ),
}


def small_checkpoint(name, folder):
    """A published checkpoint's classes, smaller: its configurations, and random weights of the denoiser."""
    about, (changed, bucket) = PUBLISHED[name], SMALL[name]
    component = "unet" if "unet" in about.parts else "transformer"
    library, class_name, config = about.parts[component]
    parts = {**about.parts, component: (library, class_name, {**config, **changed})}
    write_configurations(replace(about, parts=parts), folder)
    made = getattr(diffusers, class_name).from_config({**config, **changed})
    made.save_pretrained(folder / component)
    return folder, bucket


def random_clip(foundation, bucket):
    one_frame = foundation.clip_shape(replace(bucket, frames=1))
    text = torch.rand(foundation.text_shape)
    return RandomClip(
        torch.randn(foundation.clip_shape(bucket)), torch.randn(bucket.frames, *one_frame), text, text
    )


def allocated_peak(run):
    """The most bytes that the allocator held at once while `run` ran, beyond those before: as the profiler saw it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    held = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def measured_step(foundation, bucket, checkpointing):
    """The peak of a run's second step: the optimizer's state is there."""
    config = make_config(
        {
            "rank": RANK,
            "steps": 3,
            "gradient_checkpointing": checkpointing,
            "frames": bucket.frames,
            "height": bucket.height,
            "width": bucket.width,
        }
    )
    key = group_key(foundation.fingerprint, config)
    key = key if key.bucket == bucket else pytest.fail(f"trains {key.bucket}")
    with Pack(foundation, key, Capacity(1, 1)) as pack:
        pack.admit(Member("m", "m", config, [random_clip(foundation, bucket)]))
        pack.step()
        return allocated_peak(pack.step)


@pytest.mark.parametrize("name", SMALL)
def test_computed_memory_is_what_a_real_training_step_takes(name, tmp_path):
    folder, bucket = small_checkpoint(name, tmp_path / "model")
    found = footprint(str(folder), bucket, dtype="fp32", rank=RANK)
    foundation = load_foundation(folder, device="cpu", dtype=torch.float32, parts=("denoiser",))
    denoiser = foundation.denoiser
    assert found.parameters == sum(one.numel() for one in denoiser.parameters())
    assert found.denoiser == sum(one.nbytes for one in denoiser.parameters())
    with foundation.temporary_bank({"spatial": 1, "temporal": 1}, RANK, trainable=True) as bank:
        for path, values in found.adapter_parameters.items():
            assert values == sum(one.numel() for one in bank.slot_parameters(path, 1))
    for checkpointing, computed in found.steps.items():
        measured = measured_step(foundation, bucket, checkpointing)
        assert computed == pytest.approx(measured, rel=0.1), checkpointing


def test_decoding_is_counted_without_the_workspaces_of_convolutions():
    bucket = Bucket(17, 64, 64)
    found = footprint("tiny-random:cogvideox", bucket, dtype="fp32")
    foundation = load_foundation("tiny-random:cogvideox", device="cpu", dtype=torch.float32)
    latents = torch.zeros(1, *foundation.latent_shape(bucket))
    assert 0.5 < found.decoding / allocated_peak(lambda: foundation.decode(latents)) <= 1.0
    assert found.vae == sum(one.nbytes for one in foundation.pipeline.vae.parameters())
    assert found.text == sum(one.nbytes for one in foundation.pipeline.text_encoder.parameters())


@pytest.mark.parametrize(
    (
        "name",
        "billions",
    ),  # as the checkpoints' authors call them; ZeroScope: 1.7 with its text encoder and VAE
    [("wan-2.1-14b", 14), ("wan-2.2-14b", 2 * 14), ("hunyuan-video", 13), ("ltx-2b", 2), ("ltx-13b", 13)],
)
def test_published_configurations_have_the_parameters_that_their_names_say(name, billions):
    denoiser = load_foundation(f"published:{name}", parts=(), device="cpu", dtype="bf16").denoiser
    assert sum(one.numel() for one in denoiser.parameters()) / 1e9 == pytest.approx(billions, rel=0.05)


def test_a_published_configuration_has_no_weights_to_load():
    with pytest.raises(
        UserError, match="without weights; give a folder or hub id that has them, such as Wan-AI"
    ):
        load_foundation("published:wan-2.1-14b", device="cpu")
    with pytest.raises(UserError, match="published:wan does not exist; expected one of animatediff-v2"):
        load_foundation("published:wan", parts=())


def test_plans_are_arithmetic_on_the_footprint():
    found = Footprint(
        name="m",
        bucket=Bucket(1, 8, 8),
        dtype="bf16",
        rank=4,
        parameters=0,
        adapter_parameters={"spatial": 40, "temporal": 60},
        denoiser=8000,
        denoiser_int8=4000,
        largest_linear=100,
        largest_block=500,
        text=3000,
        vae=1000,
        steps={False: 9000, True: 2000},
        denoising=700,
        decoding=5000,
        slots=50,
    )
    assert TrainingPlan().need(found) == 8000 + 9000 + 100 * (4 + 8)
    assert TrainingPlan(checkpointing=True, int8=True).need(found) == 4000 + 100 + 2000 + 1200
    assert TrainingPlan(True, zero=3, workers=4).need(found) == 2000 + 2 * 500 + 2000 + 400 + 200
    assert ServingPlan().need(found) == 8000 + 3000 + 1000 + 50 + 5000
    assert ServingPlan(offload=True).need(found) == 8000 + 50 + 1000 + 5000
    assert ServingPlan(int8=True, offload=True).need(found) == 4000 + 100 + 50 + 6000
    assert first_that_fits(TRAINING, found, 0) is None
    assert first_that_fits(TRAINING, found, 1) == "as it is"
