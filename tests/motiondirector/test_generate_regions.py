"""`motiondirector generate --lora`: regions, phases and windows on the command line, in files and in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sample_adapters import random_adapter
from typer.testing import CliRunner

from datasets.video.writing import encode_mp4, read_metadata
from infra.errors import InvalidInput, UserError
from infra.registry import open_registry
from models.adapters.file import save_adapter
from models.denoise import install, sample
from models.generation import AdapterSettings, GenerationParams
from models.load import load_foundation
from models.regions.masks import decode_masks
from models.regions.region import Region
from motiondirector.api.generate import GenerateConfig, read_body
from motiondirector.api.lora import parse_lora
from motiondirector.cli import build
from serving.engine import finishing

TINY = ["--foundation", "tiny-random:unet3d"]


def run(*args: str | Path) -> None:
    build()([str(arg) for arg in args], standalone_mode=False)


def asked(**settings):
    """The entries of `lora` in the request of such a configuration, and the notes."""
    body, notes = read_body("a bear", GenerateConfig(**settings))
    return body.lora, notes


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("orbit", {}),
        ("orbit@2:scale=0.8", {"scale": 0.8}),
        ("orbit:scale=1,0.5,0", {"scale": (1.0, 0.5, 0.0)}),
        ("orbit:steps=0.25-0.5,path=spatial", {"steps": (0.25, 0.5), "path": "spatial"}),
        ("orbit:region=0.5,0,1,1", {"region": Region(box=(0.5, 0, 1, 1))}),
        (
            "orbit:scale=0.8,steps=0-0.5,region=0.5,0,1,1,feather=0",
            {"scale": 0.8, "steps": (0.0, 0.5), "region": Region(box=(0.5, 0, 1, 1), feather=0)},
        ),
        (
            "orbit:region=0,0,32,0,16,24,unit=pixels,feather=4",
            {"region": Region(polygon=[(0, 0), (32, 0), (16, 24)], unit="pixels", feather=4)},
        ),
        (
            '{"name": "orbit", "scale": [1, 0], "region": {"box": [0, 0, 0.5, 1]}}',
            {"scale": (1.0, 0.0), "region": Region(box=(0, 0, 0.5, 1))},
        ),
    ],
)
def test_an_adapter_is_written_in_one_word(text, fields):
    [entry], notes = asked(lora=[text])
    usual = {"scale": 1.0, "steps": None, "path": None, "region": None}
    assert {name: getattr(entry, name) for name in usual} == {**usual, **fields}
    assert entry.name.partition("@")[0] == "orbit"
    assert notes == []


def test_a_region_is_read_from_a_yaml_file_or_a_picture_or_a_video(tmp_path: Path):
    keyframes = [{"frame": 0, "box": [0, 0, 0.5, 1]}, {"frame": 3, "box": [0.5, 0, 1, 1]}]
    (tmp_path / "moving, fast.yaml").write_text(yaml.safe_dump({"keyframes": keyframes, "feather": 0.2}))
    [entry], _ = asked(lora=[f"orbit:region={tmp_path / 'moving, fast.yaml'},feather=0"])
    assert entry.region == Region(keyframes=keyframes, feather=0)

    half = np.zeros((32, 32), np.uint8)
    half[:, 16:] = 255
    Image.fromarray(half).save(tmp_path / "half.png")
    [entry], notes = asked(lora=[{"name": "orbit", "region": str(tmp_path / "half.png")}])
    assert notes == []
    assert np.array_equal(decode_masks(entry.region.mask)[0], half)

    frames = np.zeros((4, 64, 64, 3), np.uint8)
    for frame in range(4):
        frames[frame, :, 16 * frame : 16 * frame + 16] = 255
    (tmp_path / "moving.mp4").write_bytes(encode_mp4(frames, 8))
    [entry], _ = asked(lora=[f"orbit:region={tmp_path / 'moving.mp4'}"])
    masks = decode_masks(entry.region.mask)
    assert masks.shape == (4, 64, 64)
    assert np.abs(masks.astype(int) - frames[..., 0]).mean() < 4, "the codec blurs the edges"

    noise = np.random.default_rng(0).integers(0, 256, (600, 800), np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    [entry], [note] = asked(lora=[f"orbit:region={tmp_path / 'large.png'}"])
    height, width = decode_masks(entry.region.mask).shape[1:]
    assert f"was reduced from 800x600 to {width}x{height}" in note


def test_entries_of_a_config_file_are_those_of_the_http_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(
        "motiondirector.api.generate.generate", lambda prompt, config, **rest: seen.append(config) or 1 / 0
    )
    lora = [{"name": "orbit", "scale": [1, 0.5], "region": {"box": [0, 0, 0.5, 1]}}, "swing:scale=0.5"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"lora": lora, "outside": "base"}))
    with pytest.raises(ZeroDivisionError):
        run("generate", "--prompt", "x", "--config", tmp_path / "config.yaml", *TINY)
    [config] = seen
    assert config.lora == [lora[0], {"name": "swing", "scale": 0.5}]
    assert config.outside == "base"
    assert config.lora == GenerateConfig(lora=lora).lora, "and those of Python"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lora", "orbit:speed=2"], "'speed' is none of scale, steps"),
        (["--lora", "orbit:0.5"], "'0.5' is not KEY=VALUE"),
        (["--lora", "orbit:scale=much"], "'much' is not made of numbers"),
        (["--lora", "orbit:scale=9"], "--lora orbit: scale: expected a number from -4 to 4"),
        (["--lora", "orbit:steps=0.5-0.5"], "--lora orbit: steps: expected .from, to."),
        (["--lora", "orbit:steps=0.5"], "--lora orbit: steps: expected .from, to."),
        (["--lora", "orbit:path=both"], "--lora orbit: path: "),
        (["--lora", "orbit:feather=0.1"], "feather needs a region"),
        (["--lora", "orbit:region=0,0,1,1,feather=0.1,0.2"], "--lora orbit: region.feather: "),
        (["--lora", "orbit:region=0,0,1"], "--lora orbit: region.box: expected .left, top"),
        (["--lora", "orbit:region=0,0,1,1,1"], "region.polygon.2: expected a corner"),
        (["--lora", "orbit:region=0,0,2,1"], "--lora orbit: region: expected fractions"),
        (["--lora", "orbit:region=/nowhere/mask.png"], "/nowhere/mask.png does not exist"),
        (["--lora", "orbit:region=/nowhere/moving.yaml"], "cannot be read"),
        (["--lora", "{broken"], "is no JSON"),
        (["--lora", '{"name": "orbit", "region": {"file": "/nowhere/mask.png"}}'], "does not exist"),
        (["--outside", "black"], "black"),
        (["--concept", "orbit", "--scale", "9"], "--scale: expected a number from -4 to 4"),
        (["--concept", "orbit", "--until", "0"], "--until: "),
        (["--appearance", "moon", "--appearance-scale", "nan"], "--appearance-scale: expected a number"),
        (["--concept", "orbit", "--noise-prior", "1.5"], "1.5"),
        (["--concept", "orbit", "--noise-prior", "-0.1"], "-0.1"),
        (["--lora", "nothing:region=0,0,1,1"], "concept nothing is not in the registry"),
    ],
)
def test_what_is_no_adapter_is_refused_in_one_sentence(tmp_path: Path, options: list[str], message: str):
    given = ["generate", "--prompt", "a bear", *TINY, "-o", str(tmp_path / "out.mp4")]
    result = CliRunner().invoke(build(), [*given, "--registry", str(tmp_path / "registry"), *options])
    if isinstance(result.exception, UserError):
        with pytest.raises(UserError, match=message):
            raise result.exception
    else:
        assert result.exit_code == 2
        assert message in result.output
    assert list(tmp_path.glob("*")) == []


def test_large_files_of_regions_are_refused_before_they_are_read(tmp_path: Path, monkeypatch):
    for name, limit in (("moving.yaml", "1 MB that a file of a region"), ("mask.mp4", "64 MB that a mask")):
        with (tmp_path / name).open("wb") as file:
            file.truncate(100 << 20)
        with pytest.raises(UserError, match=f"{name} has 100 MB, more than the {limit} may have"):
            asked(lora=[f"orbit:region={tmp_path / name}"])
    frames = np.full((5, 32, 32, 3), 255, np.uint8)
    (tmp_path / "long.mp4").write_bytes(encode_mp4(frames, 8))
    monkeypatch.setattr("models.regions.masks.MAX_FRAMES", 4)
    with pytest.raises(InvalidInput, match="the mask has 5 frames; give one picture"):
        asked(lora=[f"orbit:region={tmp_path / 'long.mp4'}"])


def test_a_large_mask_video_is_made_smaller_frame_by_frame(tmp_path: Path, monkeypatch):
    frames = np.zeros((4, 64, 96, 3), np.uint8)
    frames[:, :, 48:] = 255
    (tmp_path / "mask.mp4").write_bytes(encode_mp4(frames, 8))
    monkeypatch.setattr("models.regions.masks.MAX_PIXELS", 4 * 32 * 48)
    [entry], [note] = asked(lora=[f"orbit:region={tmp_path / 'mask.mp4'}"])
    assert "was reduced from 96x64 to 48x32" in note
    masks = decode_masks(entry.region.mask)
    assert (masks.shape, int(masks[:, :, :22].max()) < 9, int(masks[:, :, 26:].min()) > 246) == (
        (4, 32, 48),
        True,
        True,
    )


def test_a_yaml_file_that_holds_no_region_is_refused(tmp_path: Path):
    for text, message in (("[1, 2]", "holds no fields"), ("a: [", "is no YAML")):
        (tmp_path / "region.yaml").write_text(text)
        with pytest.raises(InvalidInput, match=message):
            asked(lora=[f"orbit:region={tmp_path / 'region.yaml'}"])


def test_one_text_is_a_list_of_one():
    assert parse_lora("orbit:scale=2") == [{"name": "orbit", "scale": 2.0}]
    assert GenerateConfig(lora="orbit").lora == [{"name": "orbit"}]


def test_generate_makes_the_frames_of_its_regions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The frames, before the codec, that models.denoise makes of the same settings; the mp4 says what they are."""
    made: list[np.ndarray] = []
    real = finishing.finish
    monkeypatch.setattr(finishing, "finish", lambda *given: made.append(real(*given)) or made[-1])
    foundation = load_foundation("tiny-random:unet3d", device="cpu", dtype=torch.float32)
    adapter = random_adapter(foundation, rank=2, scale=0.6)
    saved = save_adapter(tmp_path / "adapter", adapter, foundation)
    registry = open_registry(tmp_path / "registry")
    registry.publish("orbit", tmp_path / "adapter", metadata=dict(saved.metadata))
    acts = {"scale": (1.0, 0.5), "steps": (0.0, 0.75), "region": Region(box=(0.5, 0, 1, 1))}
    [slot] = install(foundation, {"temporal": adapter.tensors}, AdapterSettings(**acts))
    params = GenerationParams(prompt="a bear", seed=5, steps=4, adapters=(slot,), outside="base")
    whole = params.model_copy(
        update={"outside": None, "adapters": (slot.model_copy(update={"region": None}),)}
    )
    expected, everywhere = (
        frames.astype(int) for frames in sample(foundation, [params, whole], batch_size=1)
    )
    assert abs(expected - everywhere)[..., :8, :].max() > 4, "the region is seen in the frames"

    given = ["--prompt", "a bear", "--seed", "5", "--steps", "4", "--registry", registry.uri, *TINY]
    written = "orbit:scale=1,0.5,steps=0-0.75,region=0.5,0,1,1"
    run("generate", *given, "--lora", written, "--outside", "base", "-o", tmp_path / "part.mp4")
    assert abs(made[-1].astype(int) - expected).max() <= 1
    said = read_metadata(tmp_path / "part.mp4")
    assert said["adapters"] == f"temporal:{saved.sha256}*1/0.5,steps=0/0.75,region=box:0.5/0/1/1"
    assert said["outside"] == "base"

    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / "mask.png")
    run("generate", *given, "--lora", f"orbit:region={tmp_path / 'mask.png'}", "-o", tmp_path / "mask.mp4")
    assert "the region of orbit: the mask of 8x8 was scaled to the video's 32x32." in capsys.readouterr().err
    said = read_metadata(tmp_path / "mask.mp4")
    assert said["adapters"].startswith(f"temporal:{saved.sha256}*1,region=mask:")
    assert "outside" not in said
