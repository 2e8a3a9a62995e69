"""What a command answers on stdout: with `--json` that and nothing else, whatever libraries print."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import typer

_answers: TextIO | None = None


@contextlib.contextmanager
def only_answers(arguments: Sequence[str]) -> Iterator[None]:
    """With `--json` among `arguments`, what is printed other than by `print_json` goes to stderr until the block ends.

    DeepSpeed's logger writes to stdout, and whoever saves a model may import it; Ray prints what its workers say.
    """
    global _answers
    if "--json" not in arguments:
        yield
        return
    _answers = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _answers = None


def print_json(value: Any) -> None:
    """The command's answer."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=lambda moment: moment.isoformat())
    typer.echo(text, file=_answers)
