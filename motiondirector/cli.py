"""`motiondirector`: registers every command and turns a `UserError` into one sentence and an exit code."""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape

from infra.errors import UserError
from infra.rows import NOT_YAML
from motiondirector.exits import EXIT_CODES, exit_code_of
from motiondirector.output import only_answers

# One module per command. Each exposes `register(app)`.
COMMANDS = (
    "ingest",
    "clips",
    "train",
    "train_batch",
    "runs",
    "concepts",
    "library",
    "serve",
    "keys",
    "tenants",
    "generate",
    "mix",
    "evaluate",
    "benchmark",
    "sprites",
    "study",
    "foundations",
    "doctor",
    "demo",
)

app = typer.Typer(
    name="motiondirector",
    help="Teach a text-to-video model a motion from a few clips, then give that motion to any appearance.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def show_version(show: bool) -> None:
    """Callback of `--version`."""
    if show:
        from motiondirector import __version__

        typer.echo(f"motiondirector {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """Teach a text-to-video model a motion from a few clips, then give that motion to any appearance."""


def load_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Callback of every command's `--config FILE.yaml`: the file's keys become that command's defaults.

    Keys are option names (`learning_rate` or `learning-rate`), or names of settings if these differ (`warm_sizes` of
    --warm-size). An option on the command line wins.
    Raises UserError if the file is missing, is not a mapping, or names an option that the command does not have.
    """
    if path is None:
        return None
    try:
        loaded: Any = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read ({error.strerror}); give a YAML file.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--config {path}: byte {error.start} is not UTF-8; save it as UTF-8 text.") from None
    except NOT_YAML as error:
        raise UserError(f"--config {path} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(loaded, dict):
        raise UserError(
            f"--config {path} contains a {type(loaded).__name__}; expected `option: value` lines."
        )
    known = {
        option.removeprefix("--").replace("-", "_"): parameter.name
        for parameter in ctx.command.params
        for option in [*parameter.opts, str(parameter.name)]  # the setting's own name wins
    }
    written = {str(key).replace("-", "_"): value for key, value in loaded.items()}
    unknown = sorted(set(written) - set(known))
    if unknown:
        raise UserError(
            f"--config {path}: unknown option {', '.join(unknown)}; `motiondirector {ctx.info_name} --help` lists all options."
        )
    values: dict[str, Any] = {}
    for key, value in written.items():
        name = str(known[key])
        if name in values:
            raise UserError(f"--config {path}: {key} and {name} are the same option; give one of them.")
        # NAME: VALUE of a repeated option NAME=VALUE; a mapping in the list of a repeated option becomes JSON
        if isinstance(value, dict):
            value = [f"{k}={json.dumps(v)}" for k, v in value.items()]
        elif isinstance(value, list):
            value = [json.dumps(one) if isinstance(one, dict) else one for one in value]
        values[name] = value
    ctx.default_map = {**(ctx.default_map or {}), **values}
    return path


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="YAML file with any of this command's options; the command line wins.",
        callback=load_config,
        is_eager=True,
    ),
]


def check_own_datasets() -> None:
    """Raises UserError if Hugging Face's `datasets` shadows this project's folder of the same name."""
    import datasets

    if not getattr(datasets, "MOTIONDIRECTOR", False):
        raise UserError(
            f"the package `datasets` at {getattr(datasets, '__file__', '?')} is not this project's; Hugging Face's "
            "package of that name cannot be in the same environment: `pip uninstall datasets`, or use the .venv that "
            "`make` creates."
        )


@functools.cache  # the commands register once, however often a process calls main()
def build() -> typer.Typer:
    """The application with all commands."""
    for name in COMMANDS:
        importlib.import_module(f"motiondirector.commands.{name}").register(app)
    return app


def main() -> None:
    """Entry point of the console script."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # before torch: spinning threads cost tenfold on busy cores
    try:
        if sys.argv[1:2] != ["doctor"]:  # the doctor reports this in detail
            check_own_datasets()
        with only_answers(sys.argv):
            build()()
    except tuple(EXIT_CODES) as error:
        if isinstance(error, UserError):
            Console(stderr=True, soft_wrap=True, highlight=False).print(
                f"[bold red]error:[/] {escape(error.message)}"
            )
        sys.exit(exit_code_of(error))
