"""What a text encoder does not read of a prompt is exactly what may be changed without changing its embeddings."""

import json
import shutil

import pytest
import torch

from models.families.unet3d import UNet3DSpec
from models.load import load_foundation
from models.locating import EMBEDDED, text_limit
from models.text import TextLimit
from models.tiny import RECIPES

HEAD = "a red square on a navy background " + "that moves along a wide path and comes back again slowly " * 12
MODELS = [None, *(f"tiny-random:{name}" for name in sorted(RECIPES))]


@pytest.fixture(scope="module", params=MODELS)
def foundation(request):
    return load_foundation(request.param, device="cpu", parts=("text",))


def test_what_is_read_decides_the_embedding_and_what_is_not_does_not(foundation):
    limit = foundation.text_limit
    words = [f"word{n}" for n in range(limit.tokens)]
    whole = " ".join(words)
    unread = limit.unread(whole)
    read = whole.removesuffix(unread).split()
    assert unread
    assert read == words[: len(read)]
    assert limit.unread(" ".join(read)) == ""
    same = " ".join([*read, words[len(read)], "something", "else", *["altogether"] * limit.tokens])
    other = " ".join([*read[:-1], "else", *words[len(read) :]])
    of_whole, of_same, of_other = (foundation.encode_text([text]) for text in (whole, same, other))
    assert torch.equal(of_whole, of_same)
    assert not torch.equal(of_whole, of_other)


def test_a_short_text_needs_no_tokenizer_and_is_read_whole(tmp_path):
    limit = TextLimit(tmp_path, "model", 32)
    assert limit.unread("a" * limit.safe_bytes) == ""
    assert limit.warning("a red fox") is None


@pytest.mark.parametrize("source", MODELS)
def test_a_text_as_long_as_is_safe_is_read_whole(source):
    limit = text_limit(source)
    for text in ("?! " * 400, "x y " * 400, "\u00e9" * 400):
        short = text[: limit.safe_bytes]
        assert limit.count(short) <= limit.tokens or not short.isascii()


def test_the_warning_has_the_words_that_are_lost():
    limit = text_limit()
    a, b = (limit.warning(HEAD + end) for end in ("in a green forest", "in a white desert"))
    assert "sprites reads only the first 30 tokens of the caption; ignored: '" in a
    assert a.endswith("in a green forest'")
    assert b.endswith("in a white desert'")
    short = "a red square on a navy background that moves along a wide path and comes back again slowly in a green forest"
    assert limit.warning(short, "prompt").endswith("in a green forest'")


def test_a_tokenizer_without_its_json_is_read_by_transformers(tmp_path):
    from transformers import CLIPTokenizer

    folder = tmp_path / "model"
    shutil.copytree(
        EMBEDDED / "text_encoder", folder / "text_encoder", ignore=lambda *_: ["model.safetensors"]
    )
    vocabulary = json.loads((EMBEDDED / "tokenizer" / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary["vocab"]))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in vocabulary["merges"]]
    (folder / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    config = json.loads((EMBEDDED / "tokenizer" / "tokenizer_config.json").read_text())
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    assert CLIPTokenizer.from_pretrained(folder / "tokenizer").is_fast
    slow, fast = UNet3DSpec().text_limit(folder, "sprites"), text_limit()
    assert slow.unread(HEAD) == fast.unread(HEAD) != ""
