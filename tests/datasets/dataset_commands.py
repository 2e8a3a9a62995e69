"""Runs a command in this process, with its module alone."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import typer
from typer.testing import CliRunner

from infra.errors import UserError


def command(module: ModuleType, *arguments: Any, answer: str | None = None) -> tuple[int, str]:
    """Exit code and output of a command, with the sentence of a UserError, for which the shell gets 2.

    Args:
        module: of `motiondirector.commands`.
        answer: what is typed if it asks.
    """
    app = typer.Typer()
    app.callback()(lambda: None)
    module.register(app)
    result = CliRunner().invoke(app, [*map(str, arguments)], input=answer)
    if isinstance(result.exception, UserError):
        return 2, result.output + result.exception.message
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output
