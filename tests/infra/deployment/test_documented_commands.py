"""Command lines of README, docs and help texts are ones that the command line reads."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from commands import UsageError, parse
from rich.text import Text

from motiondirector.cli import build

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("assets/*/README.md"))
    if path.name
    != "cluster.md"  # tests/infra/deployment/test_cluster_guide.py has it, whose blocks are whole scripts
)


def lines_of(text: str) -> Iterator[str]:
    """What is typed: lines that begin with `motiondirector`, behind `$` or indented or neither, put together again."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        found = re.match(r"\s*(?:\$ )?(motiondirector [a-z].*)", line)
        if found:
            yield found[1]


def blocks_of(page: str) -> str:
    """The text of a page's blocks, fenced or indented."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^    .*$", page, re.MULTILINE)
    return "\n".join((*fenced, *indented))


def documented() -> dict[str, list[str]]:
    return {str(page.relative_to(ROOT)): list(lines_of(blocks_of(page.read_text()))) for page in PAGES}


def helped(command: Any, name: str = "motiondirector") -> Iterator[tuple[str, str]]:
    """(command, a line of its help that shows how it is typed), of a command and all below."""
    for line in lines_of(Text.from_markup(command.help or "").plain):
        yield name, re.sub(r"\s{2,}\(.*\)$", "", line)  # a remark behind it
    for word, inner in getattr(command, "commands", {}).items():
        yield from helped(inner, f"{name} {word}")


def check(line: str) -> None:
    """Parse a line as far as its comment; the file of --config need not be there."""
    words = shlex.split(line, comments=True)
    if "--config" in words:
        place = words.index("--config")
        del words[place : place + 2]
    parse(shlex.join(words))


def test_the_pages_have_commands():
    found = documented()
    assert len(found["README.md"]) >= 9
    assert all(found[page] for page in ("docs/serving.md", "docs/results.md", "docs/evaluation.md"))


@pytest.mark.parametrize(
    ("page", "line"), [(page, line) for page, lines in documented().items() for line in lines]
)
def test_command_lines_of_pages_are_parsed(page, line):
    check(line)


@pytest.mark.parametrize(("command", "line"), list(helped(typer.main.get_command(build()))))
def test_command_lines_of_help_texts_are_parsed(command, line):
    check(line)


@pytest.mark.parametrize(
    "line",
    ["motiondirector trian", "motiondirector runs logs --fellow x", "motiondirector serve --registry"],
)
def test_a_command_or_an_option_that_there_is_not_is_found(line):
    with pytest.raises(UsageError):
        check(line)
