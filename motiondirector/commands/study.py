"""`motiondirector study`: tests the method's claim with all methods, held-out motions, open and full prompts, several seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from infra.setting import configured
from motiondirector.cli import ConfigFile
from motiondirector.exits import NOT_DONE
from motiondirector.options import add_command
from motiondirector.study.config import StudyConfig


def register(app: typer.Typer) -> None:
    """Add the command, its settings taken from `StudyConfig`."""
    add_command(app, "study", study, StudyConfig)


def study(
    out: Annotated[Path, typer.Option(help="Folder of the results; a study begun there continues.")] = Path(
        "runs/study"
    ),
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Run nothing; report on the trials in OUT.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Exit with code 1 if our method misses the loose bounds that CI checks."
        ),
    ] = False,
    config: ConfigFile = None,
    **settings: Any,
) -> None:
    """Does the method separate motion from appearance? Trains every method on rendered motions that nothing was tuned on.

    Each trial renders its reference clips, trains one method from one seed, generates videos and measures them. Some
    prompts name appearances that share no colour, shape or background colour with the clips; others name only the class of
    an object. Results are in OUT/trials, one file per table; started again, only missing trials run.

      motiondirector study --quick --check             # minutes on two cores

      motiondirector study --captions class --method base --method coupled --method dual --seeds 2

      motiondirector study --out runs/study            # days on two cores
    """
    chosen = configured(StudyConfig, settings)
    from motiondirector.progress import Bars
    from motiondirector.study import report
    from motiondirector.study.study import run_study

    console = Console()
    with Bars() as bars:
        found = run_study(chosen, out, report_only=report_only, bars=bars)
    if len(found.results) < len(found.plan.trials()):
        console.print(f"[yellow]{len(found.results)} of {len(found.plan.trials())} trials have a result[/]")
    for captions, outcome in found.outcomes.items():
        for count in outcome.references:
            for table in report.terminal(outcome, captions, count):
                console.print(table)
    if found.targets:
        console.print(report.verdicts(found.targets))
    console.print(f"tables, sheets and every trial: {escape(str(out))}", highlight=False)
    if check:
        held = found.bounds()
        console.print(report.verdicts(held))
        if not held or not all(bound.met for bound in held):
            raise typer.Exit(NOT_DONE)
