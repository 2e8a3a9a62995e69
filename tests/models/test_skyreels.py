"""SkyReels-V2 diffusion forcing: its frame rate, its scheduler, and checkpoints that are refused."""

import json
import shutil

import pytest
import torch
import yaml
from diffusers import UniPCMultistepScheduler

from infra.errors import UserError
from models.load import load_foundation, locate


@pytest.fixture
def changed(tmp_path):
    """A tiny checkpoint with another transformer's configuration or other settings."""

    def change(transformer=(), generation=()):
        folder = shutil.copytree(locate("tiny-random:skyreels"), tmp_path / "model", dirs_exist_ok=True)
        file = folder / "transformer" / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **dict(transformer)}))
        settings = yaml.safe_load((folder / "recommended.yaml").read_text())
        settings["generation"] |= dict(generation)
        (folder / "recommended.yaml").write_text(yaml.safe_dump(settings))
        return folder

    return change


def test_the_model_is_told_whether_a_video_has_16_frames_a_second(changed):
    answers = []
    for fps in (24, 30, 16):
        model = load_foundation(changed(generation={"fps": fps}), device="cpu", dtype=torch.float32)
        latents = torch.ones(2, *model.latent_shape(model.defaults.bucket))
        with torch.no_grad():
            answers.append(model.predict(latents, torch.tensor([500, 100]), model.encode_text(["a", "b"])))
    assert torch.equal(answers[0], answers[1])
    assert (answers[2] - answers[0]).abs().max() > 1e-5


def test_its_solver_is_the_one_of_a_loop_that_writes_over_its_input():
    model = load_foundation("tiny-random:skyreels", device="cpu", dtype=torch.float32)
    ours, theirs = (
        model.make_scheduler(),
        UniPCMultistepScheduler.from_config(model.pipeline.scheduler.config),
    )
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 16, 3, 4, 4, generator=draw)
    written = latents.clone()
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(5)
    for t in ours.timesteps:
        answer = torch.randn(latents.shape, generator=draw)
        latents = ours.step(answer, t, latents).prev_sample
        written[:] = theirs.step(answer, t, written).prev_sample
        torch.testing.assert_close(latents, written)


@pytest.mark.parametrize(
    ("transformer", "sentence"),
    [
        ({"image_dim": 16}, "image-to-video, which is not supported"),
        ({"in_channels": 36}, "image-to-video, which is not supported"),
        ({"num_frame_per_block": 5}, "attends in blocks of 5 latent frames"),
    ],
)
def test_other_transformers_are_refused(changed, transformer, sentence):
    with pytest.raises(UserError, match=sentence):
        load_foundation(changed(transformer), device="cpu")
