"""`motiondirector train-batch`: a manifest's concepts become motions in the registry, several in one forward."""

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
            help="Exit with 0 though concepts failed, which the table tells: for jobs that are started again after any other code.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    config: ConfigFile = None,
    **settings: Any,
) -> None:
    """Train many concepts on one resident model, several in one forward, and publish each as it ends.

    [bold]Examples[/]

      motiondirector train-batch batch.yaml --dry-run

      motiondirector train-batch s3://bucket/clips --registry s3://bucket/registry --setting steps=200

      motiondirector train-batch concepts.jsonl --registry s3://bucket/registry --address auto

    Each adapter is the one that `motiondirector train` gives with the same settings. Concepts that fail stop nobody else; where
    some have, the exit code is 1 in the end (not with --exit-zero).
    Stopped, the same command goes on; given in several terminals or machines, they share the work. A changed manifest adds to
    the batch. What failed or was cancelled stays so until `motiondirector runs retry`; `runs` shows, cancels and has the logs, too.

    With --address lanes run on a Ray cluster's nodes, one a GPU, and this command starts them again when one dies; all that
    lasts is in the registry's storage, which every node must reach.

    What is published is evaluated by a process of its own at a low priority, on the machine of this command (it holds the
    foundation once more: on a GPU that has no room for two give --no-evaluate). Scores and samples lie with the version:
    `concepts show`, `concepts pull --samples`. A version that cannot be evaluated is published all the same.
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
            f"{', '.join(result.not_ended)}: not ended; lanes on Ray (--address) train what asks for several workers",
            highlight=False,
        )
    if result.failed and not exit_zero:
        raise typer.Exit(NOT_DONE)
