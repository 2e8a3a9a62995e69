"""What commands print: with --json the answer alone is on stdout, and help texts keep their brackets."""

import json
import re

import pytest
from rich.text import Text
from typer.main import get_command

from motiondirector.cli import build
from motiondirector.output import only_answers, print_json


def test_with_json_what_libraries_print_is_on_stderr(capsys):
    with only_answers(["ingest", "clips", "--json"]):
        print("[2026-01-01] [WARNING] a library's word")
        print_json({"caption": "Ärger"})
        print("another")
    print("after")
    out, err = capsys.readouterr()
    answer, end, after = out.partition("}\n")
    assert json.loads(answer + end) == {"caption": "Ärger"}
    assert after == "after\n"
    assert err == "[2026-01-01] [WARNING] a library's word\nanother\n"


def test_without_it_all_is_on_stdout(capsys):
    with only_answers(["ingest", "clips"]):
        print("a word")
        print_json([1])
    assert capsys.readouterr() == ("a word\n[\n  1\n]\n", "")


def test_after_a_failure_stdout_is_as_before(capsys):
    with pytest.raises(ValueError), only_answers(["--json"]):
        raise ValueError
    print_json(1)
    assert capsys.readouterr().out == "1\n"


def help_texts(command, path=()):
    """(words of the command, text) of every command and option below."""
    yield path, command.help or ""
    for parameter in command.params:
        yield (*path, parameter.name), getattr(parameter, "help", None) or ""
    for name, inner in getattr(command, "commands", {}).items():
        yield from help_texts(inner, (*path, name))


def test_no_help_text_loses_what_is_in_brackets():
    """Rich takes what is in brackets for a style, unless they are escaped."""
    texts = dict(help_texts(get_command(build())))
    lost = {path: re.findall(r"(?<!\\)\[(?!bold\]|dim\]|/\]).*?\]", text) for path, text in texts.items()}
    assert {path: found for path, found in lost.items() if found} == {}
    shown = Text.from_markup(texts["sprites", "render", "trajectory"]).plain
    assert "[t, x, y], [t, x, y, scale] or [t, x, y, scale, angle]" in shown
