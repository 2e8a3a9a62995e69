"""`motiondirector train-batch`: trains and publishes a manifest's concepts, several in one forward."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from infra.setting import configured
from motiondirector.batch.config import BatchConfig
from motiondirector.cli import ConfigFile
from motiondirector.commands.concepts import DEFAULT_REGISTRY, RegistryUri
from motiondirector.exits import NOT_DONE
from motiondirector.options import add_command


def register(app: typer.Typer) -> None:
    """Add the command, its settings taken from `BatchConfig`."""
    add_command(app, "train-batch", train_batch, BatchConfig)


def train_batch(
    manifest: Annotated[
        str,
        typer.Argument(
            help="A .yaml, .jsonl, .csv or .tsv file, or a clip set: every concept in it.", metavar="MANIFEST"
        ),
    ],
    registry: RegistryUri = DEFAULT_REGISTRY,
    exit_zero: Annotated[
        bool,
        typer.Option(
            "--exit-zero",
            help="Exit with 0 even if concepts failed (the table shows them), for jobs that are restarted after any other code.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    config: ConfigFile = None,
    **settings: Any,
) -> None:
    """Train many concepts on one resident model, several in one forward, and publish each when it ends.

    [bold]Examples[/]

      motiondirector train-batch batch.yaml --dry-run

      motiondirector train-batch s3://bucket/clips --registry s3://bucket/registry --setting steps=200

      motiondirector train-batch concepts.jsonl --registry s3://bucket/registry --address auto

    Each adapter is the one that `motiondirector train` gives with the same settings. A concept that fails does not stop the
    others; the exit code is then 1 (not with --exit-zero). If the command is stopped, the same command continues. Several
    terminals or machines that run it share the work. A changed manifest adds to the batch. Failed and cancelled concepts stay
    so until `motiondirector runs retry`; `runs` also shows and cancels concepts and prints logs.

    With --address, lanes run on a Ray cluster's nodes, one per GPU, and this command restarts lanes that die. All
    persistent state is in the registry's storage, which every node must reach.

    A separate process evaluates published versions at a low priority, on the machine of this command. It loads the
    foundation a second time: if the GPU has no room for two, use --no-evaluate. Scores and samples are stored with the
    version: `concepts show`, `concepts pull --samples`. A version that cannot be evaluated is still published.
    """
    chosen = configured(BatchConfig, settings)
    from motiondirector.batch.run import train_batch as trained
    from motiondirector.batch.screen import OnScreen
    from motiondirector.batch.tables import show_records

    console = Console()
    result = trained(manifest, chosen, registry=registry, dry_run=dry_run, observer=OnScreen(console))
    if dry_run:
        return
    show_records(console, result.records, result.evaluations)
    if not result.on_ray and result.not_ended:
        console.print(
            f"{', '.join(result.not_ended)}: not trained; concepts that ask for several workers need lanes on Ray (--address)",
            highlight=False,
        )
    if result.failed and not exit_zero:
        raise typer.Exit(NOT_DONE)
