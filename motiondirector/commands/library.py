"""`motiondirector library`: the concepts that ship with the project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from motiondirector.commands.concepts import DEFAULT_REGISTRY, AsJson, RegistryUri
from motiondirector.output import print_json

group = typer.Typer(
    help="Ready concepts for the embedded model: object motions and camera shots. Lists them; add, page.",
    invoke_without_command=True,
    rich_markup_mode="rich",
)


def register(app: typer.Typer) -> None:
    """Add the command group."""
    app.add_typer(group, name="library")


@group.callback()
def list_library(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the concepts that ship with the project.

    `generate` and `serve` have them at once if they use the default registry and nothing was published there before;
    `library add` copies them into any registry.

      motiondirector generate --concept spiral --prompt "a green heart on a beige background" -o spiral.mp4
    """
    if ctx.invoked_subcommand is not None:
        return
    from motiondirector.library.library import library

    found = library()
    if as_json:
        print_json([{"name": one.name, "about": one.about, "motion_fidelity": one.fidelity} for one in found])
        return
    table = Table("concept", "what moves", "motion fidelity", title=f"{len(found)} concepts of the library")
    for one in found:
        table.add_row(one.name, escape(one.about), "" if one.fidelity is None else f"{one.fidelity:.2f}")
    Console().print(table)


@group.command("add")
def add(
    names: Annotated[list[str] | None, typer.Argument(help="Concepts; all when none is given.")] = None,
    registry: RegistryUri = DEFAULT_REGISTRY,
    as_json: AsJson = False,
) -> None:
    """Copy concepts of the library into a registry. Repeating it changes nothing.

    Example: motiondirector library add spiral tilt --registry s3://bucket/registry
    """
    from motiondirector.library.library import add_library

    added = [version.ref for version in add_library(registry, names or ())]
    if as_json:
        print_json(added)
    else:
        Console().print(f"{len(added)} concepts in {escape(registry)}: {', '.join(added)}", soft_wrap=True)


@group.command("page")
def page(
    out: Annotated[Path, typer.Option("-o", "--out", help="The HTML file.")] = Path("library.html"),
) -> None:
    """Write a page that shows every concept of the library in motion. It needs no network.

    Example: motiondirector library page -o library.html
    """
    from motiondirector.library.page import write_page

    Console().print(f"[green]{escape(str(write_page(out)))}[/]", soft_wrap=True, highlight=False)
