"""`motiondirector demo`: the main job, end to end, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from motiondirector.cli import ConfigFile


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder of everything the demo makes.")] = Path("runs/demo"),
    foundation: Annotated[
        str | None, typer.Option(help="Model folder or hub id. Absent: the embedded one.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Training steps of each concept. Absent: what suits the foundation."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Data-parallel training workers.")] = 2,
    config: ConfigFile = None,
) -> None:
    """Clips in, motions out: Parquet on S3, Ray Train with DeepSpeed, registry, Ray Serve, videos over HTTP.

    Starts what it needs (an S3 server on loopback, Ray) and stops it again, also when interrupted. Takes some
    minutes on two cores and ends with a page that shows everything: runs/demo/index.html.
    """
    from motiondirector.demo.cast import CONCEPTS
    from motiondirector.demo.story import Demo

    console = Console()
    report = Demo(out, CONCEPTS, foundation, steps, workers, console).run()
    seconds = sum(stage["seconds"] for stage in report["stages"])
    name, prompt = CONCEPTS[0].name, CONCEPTS[0].prompts[0]
    console.rule(style="dim")
    console.print(
        f"[bold green]{len(report['videos'])} videos[/] in {seconds:.0f} s. Look at [bold]{out}/index.html[/] "
        f"(and {out}/report.json).\n\nNext:",
        highlight=False,
    )
    for line in (
        f'motiondirector generate --registry {out}/registry --concept {name} --prompt "{prompt}" --seed 1 -o out.mp4',
        f"motiondirector concepts show {name} --registry {out}/registry",
        f"motiondirector serve --registry {out}/registry",
        'motiondirector ingest YOUR.mp4 --concept my-motion --caption "what it shows" --to runs/clips',
        "motiondirector train --concept my-motion --data runs/clips",
    ):
        console.print(f"  {line}", style="cyan", highlight=False, soft_wrap=True)
