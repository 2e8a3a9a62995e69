"""Prompts from files, and appearances that no reference has."""

import pytest

from datasets.sprites.captions import parse
from datasets.sprites.world import SHAPES
from evaluation.open_prompts import open_prompts, subject_of
from evaluation.prompts import Prompt, held_out_prompts, read_prompts
from infra.errors import UserError

SAME = [Prompt("a red star"), Prompt("a blue heart")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "a red star\n\n# a comment\n  a blue   heart\n"),
        ("p.yaml", "- a red star\n- prompt: a blue heart\n"),
        ("p.yml", "prompts:\n  - a red star\n  - a blue heart\n"),
        ("p.jsonl", '{"prompt": "a red star"}\n"a blue heart"\n'),
        ("p.csv", "Prompt,concept\na red star,\na blue heart,\n"),
        ("p.tsv", "prompt\tconcept\na red star\t\na blue heart\t\n"),
        ("p.ndjson", '{"prompt": "a red star", "concept": null}\n{"prompt": "a blue heart"}\n'),
    ],
)
def test_each_format_says_the_same(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_prompts(tmp_path / name) == SAME


def test_a_separator_of_lines_within_a_json_string_ends_no_line(tmp_path):
    (tmp_path / "p.jsonl").write_text('"a red\u2028star"\r\n"a blue heart"\n', encoding="utf-8")
    assert read_prompts(tmp_path / "p.jsonl") == SAME


def test_a_row_may_name_its_concept(tmp_path):
    (tmp_path / "p.csv").write_text("prompt,concept\na panda dives,diving\na panda,\n")
    assert read_prompts(tmp_path / "p.csv") == [Prompt("a panda dives", "diving"), Prompt("a panda")]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.txt", "# only a comment\n", "contains no prompt"),
        ("p.txt", "a\nb\na\n", "line 3: the same prompt as in line 1"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', "line 2: not JSON"),
        ("p.jsonl", '{"prompt": "a"}\n{"text": "b"}\n', "line 2: no `prompt` among text"),
        ("p.csv", "text\na\n", "line 1: no column `prompt`"),
        ("p.csv", 'prompt\na\n" "\n', "line 3: no `prompt`"),
        ("p.csv", "prompt,seed\na,1\n", "line 1: unknown column 'seed'"),
        ("p.csv", "prompt\na fox, running\n", "line 2: 2 cells; the header has 1"),
        (
            "p.csv",
            "prompt,concept\na fox, running\n",
            "line 2, column concept: ' running' begins with a space",
        ),
        ("p.jsonl", '{"prompt": "a", "seed": 1}\n', "line 1: unknown column 'seed'"),
        ("p.yaml", "- prompt: a\n  seed: 1\n", "line 1: unknown column 'seed'"),
        ("p.yaml", "- prompt: a\n  prompt: b\n", "line 1: one of the keys prompt, prompt appears twice"),
        ("p.yaml", "prompts: [a]\nseeds: 3\n", "line 2: unknown key 'seeds'"),
        ("p.json", '["a", "b"]\n', ".json is not supported"),
        ("p.txt", "a\nb\x07\n", "line 2, column prompt: 'b\\x07' holds a control character"),
        ("p.yaml", "- a\n- 7\n", "line 2, column prompt: 7 is not text"),
        ("p.yaml", "- a\n- [\n", "not YAML"),
        ("p.yaml", "- a\n- 2023-99-99\n", "line 2: not readable (month must be in 1..12"),
        ("p.yaml", "- a\n- !foo bar\n", "line 2: not readable (could not determine a constructor"),
        ("p.yaml", "- a\n- b\x07\n", "line 2: not YAML (the character #x0007"),
        ("p.yaml", "- a\n- " + "[" * 5000 + "\n", "not YAML ("),
        ("p.yaml", "one: two\n", "line 1: not a list"),
        ("p.yaml", "", "not a list"),
        ("p.txt", "x" * 3000, "3000 characters"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_its_line(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as refused:
        read_prompts(tmp_path / name)
    assert says in refused.value.message
    assert "\n" not in refused.value.message


def test_a_missing_or_binary_file_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "b.txt").write_bytes(b"a\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        read_prompts(tmp_path / "b.txt")


def test_held_out_appearances_share_nothing_with_the_references_and_name_no_motion():
    references = ["a red star orbits on a navy background", "a blue heart orbits on a beige gradient"]
    prompts = held_out_prompts(12, references)
    assert len(set(prompts)) == 12
    assert prompts == held_out_prompts(12, references)
    for text in prompts:
        said = parse(text)
        assert said.motion is None
        assert (said.sprite.shape, said.sprite.colour) not in {("star", "red"), ("heart", "blue")}
        assert (said.sprite.colour, said.background.colour) not in {("red", "navy"), ("blue", "beige")}


def test_open_prompts_of_sprites_name_the_classes_that_no_caption_names():
    found = open_prompts(["a red star hooks on a navy background", "a moon"], sprites=True)
    assert len(found) == 6
    assert "a heart" in found
    assert not {"a star", "a moon"} & set(found)
    assert open_prompts(["hooks"], sprites=True, count=3) == ["a circle", "a square", "a triangle"]
    assert len(open_prompts([f"a {shape}" for shape in SHAPES], sprites=True)) == len(SHAPES)


@pytest.mark.parametrize(
    ("caption", "subject"),
    [
        ("a person is riding a bicycle", "a person"),
        ("Two dogs,  running on a beach", "Two dogs"),
        ("a fox that jumps", "a fox"),
        ("the camera orbits a house", "the camera orbits a house"),
        ("island life", "island life"),
        ("is it a bird", "is it a bird"),
    ],
)
def test_the_subject_of_a_caption_is_what_stands_before_what_it_does(caption, subject):
    assert subject_of(caption) == subject


def test_open_prompts_of_other_clips_are_their_subjects_each_once():
    captions = ["a person is riding a bicycle", "a person is running", "a fox that jumps", " "]
    assert open_prompts(captions, sprites=False) == ["a person", "a fox"]
    assert open_prompts(captions, sprites=False, count=1) == ["a person"]


def test_a_message_names_the_option_that_named_the_file(tmp_path):
    (tmp_path / "p.txt").write_text("")
    with pytest.raises(UserError, match=r"--open-prompts .*p.txt: the file contains no prompt"):
        read_prompts(tmp_path / "p.txt", "--open-prompts")
