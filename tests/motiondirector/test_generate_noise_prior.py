"""`motiondirector generate --noise-prior`: from a concept, a video file or a clip of a set; the frames of models.denoise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_sets import sliding_clips, write_set
from sample_adapters import plain_adapter

from datasets.clip_sets import inverted
from datasets.clip_sets.clips import read_clips
from datasets.video.writing import encode_mp4, read_metadata
from infra.errors import UserError
from infra.registry import open_registry
from models.adapters.file import save_adapter
from models.adapters.noise_prior import write_noise
from models.denoise import sample
from models.foundations.base import Bucket, Foundation
from models.generation import GenerationParams, InvertedNoise
from models.inversion import invert
from models.load import load_foundation
from motiondirector import GenerateConfig, generate
from serving.engine import finishing

TINY, BUCKET = "tiny-random:unet3d", Bucket(4, 32, 32)


@pytest.fixture
def foundation() -> Foundation:
    return load_foundation(TINY, device="cpu", dtype=torch.float32)


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Frames that were made, before the codec."""
    made: list[np.ndarray] = []
    real = finishing.finish
    monkeypatch.setattr(finishing, "finish", lambda *given: made.append(real(*given)) or made[-1])
    return made


@pytest.fixture
def inverting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[torch.Tensor]:
    """The latents that were inverted, in two steps; a cache folder of the test's own."""
    seen: list[torch.Tensor] = []

    def fast(foundation: Foundation, latents: torch.Tensor, text: torch.Tensor, **options) -> torch.Tensor:
        seen.append(latents)
        return invert(foundation, latents, text, steps=2, iterations=1, **options)

    monkeypatch.setattr(inverted, "invert", fast)
    monkeypatch.setattr("infra.files.cache_folder", lambda: tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    return seen


def expected(foundation: Foundation, noise: torch.Tensor, weight: float) -> np.ndarray:
    given = InvertedNoise(weight=weight, noise_Cfhw=noise, source="x")
    [made] = sample(foundation, [GenerationParams(prompt="a bear", seed=5, steps=2, noise_prior=given)])
    return made.astype(int)


def make(tmp_path: Path, **settings):
    chosen = GenerateConfig(foundation=TINY, device="cpu", seed=5, steps=2, **settings)
    return generate("a bear", chosen, registry=str(tmp_path / "registry"))


def test_a_video_file_gives_its_noise_once(tmp_path, foundation, frames, inverting):
    (clip,) = sliding_clips("slide", count=1, frames=6)
    file = tmp_path / "reference#1.mp4"  # a file, whatever is in its name
    file.write_bytes(encode_mp4(clip.frames_FHWC(), 8))
    video = make(tmp_path, prior_clip=str(file), noise_prior=0.5)
    make(tmp_path, prior_clip=str(file), noise_prior=0.2)
    assert len(inverting) == 1
    noise = invert(foundation, inverting[0], steps=2, iterations=1)
    for number, weight in enumerate((0.5, 0.2)):
        assert np.abs(frames[number].astype(int) - expected(foundation, noise, weight)).max() <= 1
    said = read_metadata(video.save(tmp_path / "out.mp4"))
    assert said["noise_prior"].startswith("clip:")
    assert said["noise_prior"].endswith("*0.5")


def test_a_clip_of_a_set_keeps_its_noise_beside_its_latents(tmp_path, foundation, frames, inverting):
    data = write_set(tmp_path / "data", *sliding_clips("slide", count=2))
    second = read_clips(data)[1]
    for _ in range(2):
        video = make(tmp_path, prior_clip=f"{data}#{second.clip_id[:8]}", noise_prior=0.5)
    assert len(inverting) == 1
    assert list((tmp_path / "data" / ".latents").rglob("noise/*/*/*.safetensors"))
    said = read_metadata(video.save(tmp_path / "out.mp4"))
    assert said["noise_prior"] == f"clip:{second.sha256}*0.5"
    noise = invert(foundation, inverting[0], steps=2, iterations=1)
    assert np.abs(frames[1].astype(int) - expected(foundation, noise, 0.5)).max() <= 1


def test_a_concepts_own_noise_prior_needs_no_clips(tmp_path, foundation, frames):
    folder = tmp_path / "version"
    saved = save_adapter(folder, plain_adapter(foundation, up=0), foundation)
    noise = torch.randn(foundation.latent_shape(BUCKET), generator=torch.Generator().manual_seed(1))
    write_noise(folder, foundation, BUCKET, [noise])
    registry = open_registry(tmp_path / "registry")
    registry.publish("orbit", folder, metadata=dict(saved.metadata))
    for given in (
        {"concept": "orbit"},
        {"concept": "orbit", "scale": 0.5},  # the request then names it as an entry of `lora`
        {"prior_concept": "orbit@1"},
    ):
        make(tmp_path, noise_prior=0.5, **given)
        found = frames.pop().astype(int)
        assert np.abs(found - expected(foundation, noise.half().float(), 0.5)).max() <= 1
    with pytest.raises(UserError, match=r"has a noise prior for 4x32x32 .*, but the video is 6x32x32"):
        make(tmp_path, noise_prior=0.5, concept="orbit", frames=6)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda clip: clip.frames_FHWC()[:2], "--prior-clip: .* is too short"),
        (lambda clip: clip.frames_FHWC()[:, :16], "--prior-clip: .* is too small"),
    ],
)
def test_a_file_that_does_not_cover_the_video_is_refused(
    tmp_path: Path, inverting: list, spoil: Callable, message: str
):
    (clip,) = sliding_clips("slide", count=1)
    file = tmp_path / "reference.mp4"
    file.write_bytes(encode_mp4(spoil(clip), 8))
    with pytest.raises(UserError, match=message):
        make(tmp_path, prior_clip=str(file), noise_prior=0.5)
    file.write_bytes(b"no video")
    with pytest.raises(UserError, match="--prior-clip: "):
        make(tmp_path, prior_clip=str(file), noise_prior=0.5)
    assert inverting == []


def test_a_clip_of_a_set_that_is_too_slow_is_refused(tmp_path: Path, inverting: list):
    slow = [replace(clip, fps=4.0) for clip in sliding_clips("slide", count=1)]
    data = write_set(tmp_path / "data", *slow)
    with pytest.raises(UserError, match=r"--prior-clip: clip .* has 4 fps, but training uses 8"):
        make(tmp_path, prior_clip=f"{data}#{slow[0].clip_id}", noise_prior=0.5)
    with pytest.raises(UserError, match="has no such clip"):
        make(tmp_path, prior_clip=f"{data}#ffffffff", noise_prior=0.5)
