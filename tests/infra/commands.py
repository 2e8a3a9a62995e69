"""Commands that files and guides name, as the real command line reads them, without running them."""

from __future__ import annotations

import shlex
from typing import Any

import typer
import typer.main

from motiondirector.cli import build

UsageError: Any = typer.BadParameter.__base__  # which typer has, and does not export
COMMANDS = set(typer.main.get_command(build()).commands)  # type: ignore[attr-defined]


def parse(command: str) -> dict[str, Any]:
    """The options of `motiondirector ...`. Raises UsageError for a command or an option that there is not."""
    words = shlex.split(command)
    assert words[0] == "motiondirector"
    group: Any = typer.main.get_command(build())
    context = group.make_context("motiondirector", words[1:])
    name, subcommand, rest = group.resolve_command(context, words[1:])
    return subcommand.make_context(name, rest, parent=context).params
