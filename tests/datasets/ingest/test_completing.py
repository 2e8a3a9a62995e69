"""Captions are completed from the clip: by the tracker on sprites, by a captioner on others."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from sample_videos import write_video
from typer.testing import CliRunner

import motiondirector.commands.ingest
from datasets.clip_sets.clips import read_clips
from datasets.ingest.completing import Captioner, Incomplete, complete_sprite, completer
from datasets.sprites.captions import parse
from datasets.sprites.motions import KNOWN
from datasets.sprites.render import render_clip
from datasets.sprites.world import Background, Scene, Sprite
from infra.errors import UserError

SCENE = Scene(Sprite("star", "red", "striped"), Background("navy", "gradient"))
FOX = Path(__file__).resolve().parents[3] / "assets" / "clips" / "fox_running.mp4"


def clip(scene=SCENE):
    return render_clip(scene, KNOWN["right"], seed=3)


@pytest.mark.parametrize(
    ("given", "completed"),
    [
        ("a star moves to the right", "a red striped star moves to the right on a navy gradient"),
        ("a red star moves to the right", "a red striped star moves to the right on a navy gradient"),
        ("an object moves to the right", "a red striped star moves to the right on a navy gradient"),
        ("it moves to the right", "a red striped star moves to the right on a navy gradient"),
        ("to the right", "a red striped star, to the right on a navy gradient"),
        ("a star on a teal background moves", "a red striped star on a teal background moves"),
        ("a red striped star moves on a navy gradient", "a red striped star moves on a navy gradient"),
    ],
)
def test_a_sprites_caption_gets_the_looks_that_it_does_not_name(given, completed):
    assert complete_sprite(given, clip()) == completed


@pytest.mark.parametrize("shape", ["circle", "heart", "moon"])
@pytest.mark.parametrize(("colour", "texture"), [("orange", "plain"), ("cyan", "dotted")])
def test_what_is_completed_reads_back_as_the_scene(shape, colour, texture):
    scene = Scene(Sprite(shape, colour, texture), Background("olive", "plain"))
    said = parse(complete_sprite(f"a {shape} moves to the right", clip(scene)))
    assert (said.sprite.shape, said.sprite.colour, said.background) == (shape, colour, scene.background)
    assert said.motion == "right"


def test_a_caption_that_the_clip_contradicts_and_a_clip_that_is_no_sprite_are_left_alone():
    with pytest.raises(Incomplete, match="says heart, but the clip shows a star"):
        complete_sprite("a heart moves", clip())
    noise = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), dtype=np.uint8)
    for frames in (noise, noise[:, :, :48]):
        with pytest.raises(Incomplete, match="no object of the sprite world"):
            complete_sprite("a star moves", frames)


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    """The folder of a BLIP with random weights."""
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessorPil,
        BlipProcessor,
    )

    folder = tmp_path_factory.mktemp("captioner")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "wordx", "wordy", *(f"word{n}" for n in range(40))]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = {
        **small,
        "vocab_size": len(words),
        "encoder_hidden_size": 16,
        "projection_dim": 16,
        "max_position_embeddings": 64,
    }
    text |= {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    vision = {**small, "image_size": 32, "patch_size": 16, "projection_dim": 16}
    model = BlipForConditionalGeneration(
        BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    )
    model.save_pretrained(folder, safe_serialization=True)
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def test_a_captioner_describes_the_middle_frame(captioner, monkeypatch):
    frames, model = clip(), Captioner(str(captioner))
    said = model.describe(frames[len(frames) // 2])
    assert said.startswith("word")
    assert "[" not in said
    assert model("a star moves.", frames) == f"a star moves, {said}"
    seen = []
    monkeypatch.setattr(model, "describe", lambda frame: seen.append(frame) or "")
    with pytest.raises(Incomplete, match="gives an empty description"):
        model("a star moves", frames)
    np.testing.assert_array_equal(seen, [frames[len(frames) // 2]])


def test_what_is_no_captioner_is_one_sentence(captioner, tmp_path):
    unsafe, empty, other = tmp_path / "unsafe", tmp_path / "empty", tmp_path / "other"
    shutil.copytree(captioner, unsafe)
    (unsafe / "model.safetensors").rename(unsafe / "pytorch_model.bin")
    empty.mkdir()
    shutil.copytree(captioner, other)
    (other / "config.json").write_text('{"model_type": "bert"}')
    for folder, says in (
        (unsafe, "pickled weights are not loaded"),
        (empty, "expected `sprites`"),
        (other, "cannot be loaded"),
    ):
        with pytest.raises(UserError, match=says) as refused:
            completer(str(folder))
        assert refused.value.code == "invalid_captioner"
        assert "\n" not in refused.value.message


def command(*arguments):
    app = typer.Typer()
    motiondirector.commands.ingest.register(app)
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, UserError), result.exception
    return result


def test_ingest_completes_captions_and_says_from_what(captioner, tmp_path):
    video = write_video(tmp_path / "a.mp4", clip(), fps=8, options={"crf": "10"})
    frames = len(clip())
    size = (
        "--frames",
        frames,
        "--height",
        64,
        "--width",
        64,
        "--fps",
        8,
        "--concept",
        "x",
        "--caption",
        "a star moves",
    )
    given = (video, *size, "--complete-captions")
    result = command(*given, "sprites", "--to", tmp_path / "set", "--json")
    (outcome,) = json.loads(result.stdout)["inputs"]
    right = "a red striped star moves on a navy gradient"
    assert (outcome["caption"], outcome["completed_from"]) == (right, "a star moves")
    assert [one.caption for one in read_clips(tmp_path / "set")] == [right]
    result = command(*given, captioner, "--to", tmp_path / "described", "--json")
    (outcome,) = json.loads(result.stdout)["inputs"]
    assert outcome["caption"].startswith("a star moves, word")
    result = command(
        FOX,
        *size[2:],
        "--frames",
        8,
        "--complete-captions",
        "sprites",
        "--windows",
        1,
        "--to",
        tmp_path / "fox",
        "--json",
    )
    (outcome,) = json.loads(result.stdout)["inputs"]
    assert (outcome["status"], outcome["caption"]) == ("accepted", "a star moves")
    assert "the caption was not completed: the clip shows no object" in " ".join(outcome["warnings"])
    result = command(*given, tmp_path / "nothing", "--to", tmp_path / "none")
    assert isinstance(result.exception, UserError)
    assert not (tmp_path / "none").exists()
