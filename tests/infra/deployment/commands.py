"""Parses commands of files and guides with the real command line, without running them."""

from __future__ import annotations

import shlex
from typing import Any

import typer
import typer.main

from motiondirector.cli import build

UsageError: Any = typer.BadParameter.__base__  # typer does not export it
COMMANDS = set(typer.main.get_command(build()).commands)  # type: ignore[attr-defined]


def parse(command: str) -> dict[str, Any]:
    """The options of `motiondirector ...`. Raises UsageError for an unknown command or option."""
    words = shlex.split(command)
    assert words[0] == "motiondirector"
    command: Any = typer.main.get_command(build())
    context = command.make_context("motiondirector", words[1:])
    rest = words[1:]
    while rest and hasattr(command, "resolve_command"):  # a group, such as `runs`, with subcommands
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, list(rest), parent=context)
    return context.params
