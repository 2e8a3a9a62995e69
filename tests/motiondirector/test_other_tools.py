"""From a shell: a LoRA of another tool is imported, used and written again; a video begins with an image."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from datasets.video.decode import decode
from models.load import load_foundation

WAN = ("--foundation", "tiny-random:wan")


@pytest.fixture
def registry(tmp_path, monkeypatch):
    monkeypatch.setenv("MOTIONDIRECTOR_REGISTRY", str(tmp_path / "registry"))


@pytest.fixture
def lora(tmp_path):
    """A file of the node editor for tiny-random:wan, which also changes the attention to the text."""
    foundation = load_foundation("tiny-random:wan", parts=("denoiser",), device="cpu", dtype="float32")
    generator, keys = torch.Generator().manual_seed(0), {}
    for name in (*foundation.targets["temporal"], *foundation.more_targets):
        layer = foundation.denoiser.get_submodule(name)
        key = f"diffusion_model.{foundation.spec.original_names(name)[0][0]}"
        keys[f"{key}.lora_A.weight"] = torch.randn(2, layer.in_features, generator=generator)
        keys[f"{key}.lora_B.weight"] = torch.randn(layer.out_features, 2, generator=generator)
    save_file(keys, tmp_path / "lora.safetensors")
    return tmp_path / "lora.safetensors"


@pytest.mark.usefixtures("registry")
def test_a_lora_is_imported_used_and_written_again(run, lora, tmp_path):
    code, out, err = run("concepts", "import", lora, "--concept", "orbit", *WAN, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["imported"]["lora.safetensors"] == {"layout": "ComfyUI", "layers": 20, "unmatched": []}
    assert found["metadata"]["layout"] == "ComfyUI"
    video = ("generate", "--prompt", "a bear", "--seed", "1", *WAN, "-o", tmp_path / "out.mp4")
    code, _, err = run(*video, "--concept", "orbit")
    assert code != 0
    assert "--adapter-layers all" in err
    code, _, err = run(*video, "--concept", "orbit", "--adapter-layers", "all")
    assert code == 0, err
    made = decode(tmp_path / "out.mp4").frames_FHWC.astype(int)
    assert run(*video)[0] == 0
    assert np.abs(made - decode(tmp_path / "out.mp4").frames_FHWC).max() > 8, "the LoRA is seen"
    code, _, err = run("concepts", "export", "orbit", "--format", "comfyui", "--to", tmp_path / "out")
    assert code == 0, err
    again, keys = load_file(tmp_path / "out" / "orbit.safetensors"), load_file(lora)
    assert again.keys() == keys.keys()
    assert all(torch.equal(again[key], keys[key]) for key in keys)


@pytest.mark.usefixtures("registry")
def test_what_cannot_be_imported_publishes_nothing(run, lora):
    other = load_file(lora)
    other["diffusion_model.head.head.diff"] = torch.ones(2)
    save_file(other, lora)
    code, _, err = run("concepts", "import", lora, "--concept", "orbit", *WAN)
    assert code != 0
    assert "head.head.diff; give --partial" in err
    assert "orbit" not in run("concepts", "list")[1]
    code, out, _ = run("concepts", "import", lora, "--concept", "orbit", *WAN, "--partial")
    assert code == 0
    assert "not imported: diffusion_model.head.head.diff" in out


@pytest.mark.usefixtures("registry")
def test_a_video_begins_with_an_image(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    made = []
    for image in ("cat.png", "grey.png"):
        Image.new("RGB", (32, 32), "grey").save(tmp_path / "grey.png")
        out = tmp_path / f"{image}.mp4"
        given = ("--prompt", "a cat", "--seed", "1", "--image", tmp_path / image, "-o", out)
        code, _, err = run("generate", "--foundation", "tiny-random:wan-image", *given)
        assert code == 0, err
        made.append(decode(out).frames_FHWC.astype(int))
    assert np.abs(made[0] - made[1]).max() > 2
    code, _, err = run("generate", "--foundation", "tiny-random:wan-image", "--prompt", "a", "-o", out)
    assert code != 0
    assert "begin with an image, and none was given" in err
    code, _, err = run("generate", "--image", tmp_path / "cat.png", "--prompt", "a", "-o", out, *WAN)
    assert code != 0
    assert "makes videos from text alone" in err
