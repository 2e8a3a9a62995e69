"""A command's output on stdout: with `--json` only the JSON, whatever libraries print."""

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
    """With `--json` among `arguments`, redirect everything except `print_json` to stderr during the block.

    DeepSpeed's logger writes to stdout, and saving a model may import it; Ray prints its workers' output.
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
    """Print the command's output as JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=lambda moment: moment.isoformat())
    typer.echo(text, file=_answers)
