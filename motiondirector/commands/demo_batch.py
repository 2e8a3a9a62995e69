"""`motiondirector demo-batch`: many concepts on a small cluster, with accidents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from motiondirector.cli import ConfigFile


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo-batch")(demo_batch)


def demo_batch(
    out: Annotated[Path, typer.Option(help="Folder of the report and the logs.")] = Path("runs/demo-batch"),
    concepts: Annotated[int, typer.Option(min=3, help="Good concepts, the late one included.")] = 24,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Training steps of each concept. Absent: what suits the foundation."),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """A batch on a cluster of two worker nodes, both on this machine: one is killed, one clip is spoilt, one concept comes late.

    Starts an S3 server on loopback and Ray, and stops both. Ends with one table: every good concept published once, with
    its scores, and the bad one explained. At the recommended steps about half an hour on two cores; --steps 20 shows the
    same in a few minutes.
    """
    from motiondirector.demo.crowd import Crowd

    console = Console()
    report = Crowd(out, concepts, steps, console).run()
    table = Table("concept", "status", "version", "scores", "lanes lost", "")
    for row in report["concepts"]:
        scores = ", ".join(f"{name} {value:.2f}" for name, value in row["scores"].items())
        table.add_row(
            row["concept"], row["status"], row["version"] or "", scores, str(row["lost"]), row["reason"] or ""
        )
    console.print(table)
    console.print(
        f"{concepts} concepts in {report['seconds']:.0f} s; logs and report.json: {out}", highlight=False
    )
