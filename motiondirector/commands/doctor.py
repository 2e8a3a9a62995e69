"""`motiondirector doctor`: checks versions, devices, Ray and storage, and names remedies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from motiondirector.exits import NOT_DONE
from motiondirector.output import print_json

if TYPE_CHECKING:
    from motiondirector.doctor.probes import Check

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(
    storage: Annotated[
        str | None,
        typer.Option(
            envvar="MOTIONDIRECTOR_REGISTRY",
            help="Storage to test: writes, reads, conditionally writes and deletes a probe object there.",
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to test. Absent: starts a local one briefly.")
    ] = None,
    foundation: Annotated[
        str | None, typer.Option(help="Foundation to look for. Absent: the embedded one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine: each line is ok, warn or fail, with its remedy. Exit code 1 if anything fails.

    Examples:

    motiondirector doctor

    motiondirector doctor --storage s3://bucket/registry --address ray-head:6379
    """
    from motiondirector.doctor.checks import attempt, diagnose

    checks: list[Check] = []
    console = Console(soft_wrap=True, highlight=False)
    for found in (diagnose(storage, address), attempt("foundation", lambda: check_foundation(foundation))):
        for check in found:
            checks.append(check)
            if not as_json:
                colour = COLOURS[check.status]
                console.print(f"[{colour}]{check.status:4}[/]  {escape(check.name):17} {escape(check.found)}")
                if check.remedy:
                    console.print(f"{'':24}-> {escape(check.remedy)}")
    counts = {status: sum(check.status == status for check in checks) for status in COLOURS}
    if as_json:
        print_json({"checks": [asdict(check) for check in checks], "counts": counts})
    else:
        console.print(", ".join(f"{number} {status}" for status, number in counts.items()))
    raise typer.Exit(NOT_DONE if counts["fail"] else 0)


def check_foundation(source: str | None) -> Iterator[Check]:
    """Check that the foundation's files exist and belong to a known family."""
    from models.load import family_of, locate
    from motiondirector.doctor.probes import Check

    folder = locate(source)
    yield Check("foundation", "ok", f"{family_of(folder, str(source)).name} in {folder}")
