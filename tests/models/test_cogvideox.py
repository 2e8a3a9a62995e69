"""CogVideoX: its noise schedule, its frame counts, and the latent frame that 1.5 has in front."""

import json
import shutil

import pytest
import torch
from diffusers import DDPMScheduler

from infra.errors import UserError
from models.foundations.base import Bucket
from models.load import load_foundation
from models.locating import foundation_sizes, locate
from training.config import TrainConfig
from training.loop.draws import draw


@pytest.fixture(scope="module", params=["cogvideox", "cogvideox-1.5"])
def cog(request):
    return load_foundation(f"tiny-random:{request.param}", device="cpu", dtype=torch.float32)


def test_training_noises_by_the_shifted_schedule(cog):
    """What diffusers' DDPMScheduler makes of the same configuration has less noise at the same timestep."""
    t = torch.tensor([300])
    one, none = torch.ones(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1)
    ours = cog.noise.add(one, none, t).square()
    unshifted = DDPMScheduler.from_config(cog.pipeline.scheduler.config)
    shifted = cog.make_scheduler().alphas_cumprod[300]
    assert float(ours) == pytest.approx(float(shifted), rel=1e-5)
    assert float(unshifted.alphas_cumprod[300]) > 1.5 * float(shifted)


def test_frames_are_multiples_of_eight_plus_one_because_an_even_number_of_latent_frames_loses_the_first(cog):
    vae = cog.pipeline.vae
    frames = {f: vae.decode(torch.zeros(1, 8, f, 4, 4)).sample.shape[2] for f in (1, 2, 3)}
    assert frames == {1: 1, 2: 8, 3: 9}
    assert cog.sizes.frame_step == 8
    with pytest.raises(UserError, match=r"frame count 13 .* multiple of 8 plus 1, such as 9"):
        cog.check_bucket(Bucket(13, 32, 32))


def test_the_latent_frame_in_front_of_1_5_is_a_copy_in_training_and_dropped_in_the_end():
    cog = load_foundation("tiny-random:cogvideox-1.5", device="cpu", dtype=torch.float32)
    bucket = Bucket(9, 32, 32)
    video = torch.rand(1, 3, 9, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = cog.encode_video(video)
    assert latents.shape[2] == cog.latent_shape(bucket)[1] == 4
    assert torch.equal(latents[:, :, 0], latents[:, :, 1])
    other = latents.clone()
    other[:, :, 0] = 0
    assert torch.equal(cog.decode(other), cog.decode(latents))
    assert [list(of) for of in cog.latent_layout(bucket).frames] == [[0], [0], [1, 2, 3, 4], [5, 6, 7, 8]]
    tokens = cog.token_layout(cog.targets["temporal"][0], bucket)
    assert [list(of) for of in tokens.frames] == [[0], [1, 2, 3, 4, 5, 6, 7, 8]]


def test_a_frame_of_two_latent_frames_has_the_noise_of_its_token_in_the_clip():
    given = {
        "concept": "c",
        "step": 0,
        "global_batch": 1,
        "clips": 1,
        "latent_shape": (3, 4, 2, 2),
        "frames": 9,
    }
    for index in range(6):
        one = draw(TrainConfig(skip_spatial=0.0, appearance_share=0.0), index=index, frame_latents=2, **given)
        (frame,) = one.frames
        first = 0 if frame.frame == 0 else 2
        assert torch.equal(frame.noise_C1HW, one.noise_CFHW[:, first : first + 2])


def test_an_image_to_video_transformer_is_refused(tmp_path):
    folder = shutil.copytree(locate("tiny-random:cogvideox"), tmp_path / "model")
    config = json.loads((folder / "transformer" / "config.json").read_text())
    (folder / "transformer" / "config.json").write_text(json.dumps({**config, "in_channels": 16}))
    with pytest.raises(
        UserError, match=r"takes 16 channels, and its VAE makes 8: it is CogVideoX's image-to-video"
    ):
        foundation_sizes(str(folder))
