"""`motiondirector demo`: the main workflow, end to end, on this machine; `demo-batch`: many concepts, with injected faults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from motiondirector.cli import ConfigFile
from motiondirector.exits import NOT_DONE


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(demo)
    app.command("demo-batch")(demo_batch)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for all outputs of the demo.")] = Path("runs/demo"),
    concept: Annotated[
        list[str] | None, typer.Option(help="Concept to train (repeat): orbit, zigzag. Absent: both.")
    ] = None,
    foundation: Annotated[
        str | None, typer.Option(help="Model folder or hub id. Absent: the embedded one.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Training steps of each concept. Absent: chosen for the foundation."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Data-parallel workers of each training.")] = 1,
    coupled: Annotated[
        bool,
        typer.Option(
            "--coupled",
            help="Also train a coupled baseline for orbit (one LoRA for appearance and motion), for comparison.",
        ),
    ] = False,
    uses: Annotated[
        bool,
        typer.Option(
            help="Also learn the looks of a clip and of an image, and show mix, animate and region with the last motion."
        ),
    ] = True,
    config: ConfigFile = None,
) -> None:
    """Clips in, motions out: Parquet on S3, Ray Train with DeepSpeed, registry, Ray Serve, videos over HTTP.

    Starts an S3 server on loopback and Ray, and stops them at the end, also if interrupted. Takes some minutes on two
    cores and ends with a page that shows all results: runs/demo/index.html.
    """
    from motiondirector.demo.cast import chosen
    from motiondirector.demo.story import Demo

    console, concepts = Console(), chosen(concept)
    report = Demo(out, concepts, foundation, steps, workers, coupled, uses, console).run()
    name, prompt = concepts[0].name, concepts[0].prompts[0]
    console.rule(style="dim")
    conclude(
        console,
        f"{len(report['videos'])} videos",
        report,
        out,
        f'motiondirector generate --registry {out}/registry --concept {name} --prompt "{prompt}" --seed 1 -o out.mp4',
        f"motiondirector concepts show {name} --registry {out}/registry",
        f"motiondirector serve --registry {out}/registry",
        'motiondirector ingest YOUR.mp4 --concept my-motion --caption "what it shows" --to runs/clips',
        "motiondirector train --concept my-motion --data runs/clips",
    )


def demo_batch(
    out: Annotated[Path, typer.Option(help="Folder for all outputs of the demo.")] = Path("runs/demo-batch"),
    foundation: Annotated[
        str | None, typer.Option(help="Model folder or hub id. Absent: the embedded one.")
    ] = None,
    concepts: Annotated[
        int, typer.Option(min=3, max=100, help="Concepts to train, besides one with a damaged clip.")
    ] = 24,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each concept.")] = 200,
    checkpoint_interval: Annotated[
        int, typer.Option(min=1, help="Steps between checkpoints of a concept.")
    ] = 10,
    config: ConfigFile = None,
) -> None:
    """A batch of concepts on a Ray cluster of local nodes, with clips and registry in S3 and with injected faults.

    A node is killed during the training, one stored clip is damaged, and one concept is added late. At the end, the
    demo checks that the other concepts are published once each, with scores, and that the damaged one failed with an
    explanation. It shows a table and writes runs/demo-batch/index.html; the exit code is 1 if anything deviates. Takes
    about half an hour on two otherwise idle cores.
    """
    from motiondirector.demo.batch import BatchDemo
    from motiondirector.demo.verdict import reasons_of, table_of

    console = Console()
    story = BatchDemo(out, concepts, foundation, steps, checkpoint_interval, console)
    report = story.run()
    console.rule(style="dim")
    console.print(table_of(story.rows))
    for reason in reasons_of(story.rows):
        console.print(reason, highlight=False, markup=False, soft_wrap=True)
    published = sum(row.status == "published" for row in story.rows)
    name = story.rows[0].concept
    conclude(
        console,
        f"{published} of {len(story.rows)} concepts published",
        report,
        out,
        f"motiondirector runs show demo --registry {out}/registry",
        f"motiondirector runs logs demo {name} --registry {out}/registry",
        f"motiondirector concepts show {name} --registry {out}/registry",
    )
    if report["faults"]:
        console.print("\n[bold red]Deviations from the expected result:[/]")
        for fault in report["faults"]:
            console.print(f"  {fault}", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(NOT_DONE)


def conclude(console: Console, done: str, report: dict[str, Any], out: Path, *commands: str) -> None:
    """Print the result, its time, where it is, and commands to try next."""
    seconds = sum(stage["seconds"] for stage in report["stages"])
    console.print(
        f"[bold green]{done}[/] in {seconds:.0f} s. Open [bold]{escape(str(out))}/index.html[/] "
        f"(and {escape(str(out))}/report.json).\n\nNext:",
        highlight=False,
    )
    for line in commands:
        console.print(f"  {escape(line)}", style="cyan", highlight=False, soft_wrap=True)
