"""`motiondirector ingest`: makes a clip set from videos."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.errors import UserError
from infra.setting import configured
from motiondirector.api.ingest import IngestConfig, Size
from motiondirector.cli import ConfigFile
from motiondirector.options import add_command
from motiondirector.output import print_json

if TYPE_CHECKING:
    from datasets.ingest.local import Report
    from datasets.ingest.process import Outcome

STYLES = {"accepted": "green", "duplicate": "yellow", "refused": "red", "ignored": "dim"}


def register(app: typer.Typer) -> None:
    """Add the command, its settings taken from `IngestConfig`."""
    add_command(app, "ingest", ingest, IngestConfig)


def ingest(
    source: Annotated[
        list[str],
        typer.Argument(
            help="Videos: files, folders, globs, s3://bucket/prefix, or a manifest (.csv, .tsv, .jsonl) with "
            "`file` and optional `caption`, `concept`, `start`, and no other column. Formats: mp4, webm, mov, avi, mkv, gif, animated webp."
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="The clip set: a folder or s3://bucket/prefix. Created if new, otherwise appended to.",
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON instead of a table.")
    ] = False,
    config: ConfigFile = None,
    **settings: Any,
) -> None:
    """Cut clips of one size out of videos and add them, with captions, to a Parquet clip set.

    The command prints a table of every input: accepted, with the seconds that are used, or refused, with the reason. A
    video longer than a clip gives up to four consecutive clips (--windows). Accepted clips are stored even if others are
    refused (--strict: all or none). A clip that the set already has is a duplicate and is not stored again, so repeating
    a command changes nothing. The exit code is 2 if none of the inputs is in the set afterwards.

    Examples:

      motiondirector ingest fox.mp4 --concept run --caption "a fox is running" --to clips/

      motiondirector ingest videos/ --captions captions.csv --concept car-turn --to s3://bucket/clips --fps 8

      motiondirector ingest fox.mp4 --concept run --caption "a fox is running" --to clips/ --speed 0.5 --reverse --words reverse=backwards

      motiondirector ingest clips/orbit --captions clips/orbit/captions.csv --masks clips/orbit/masks.json --concept orbit --to data

      motiondirector ingest long.mp4 --windows all --concept dance --caption "a man dances" --to clips/ --frames 16 --height 256 --width 256
    """
    chosen = configured(IngestConfig, settings)
    from datasets.ingest.local import summary
    from motiondirector.api.ingest import ingest as ingested
    from motiondirector.progress import terminal_bars

    with terminal_bars() as bars:
        made = ingested(source, to, chosen, on_progress=lambda done, total: bars("reading", done, total))
    report = made.report
    if as_json:
        print_json({**report.as_json(), "size": asdict(made.size)})
    else:
        show(report, made.size)
    if not report.count("accepted") and not report.count("duplicate"):
        raise UserError(
            f"no clip was accepted and nothing was stored; {summary(report)}", code="nothing_accepted"
        )


def show(report: Report, size: Size) -> None:
    """The report as a table."""
    table = Table(title=None, show_edge=False, pad_edge=False)
    for name in ("input", "", "clip", "used", "what"):
        table.add_column(name, overflow="fold", no_wrap=name == "clip")
    for outcome in report.outcomes:
        clip = f"{outcome.size} at {outcome.fps:.4g} fps" if outcome.size else ""
        clip += f"\n{outcome.variant} of {outcome.variant_of[:12]}" if outcome.variant else ""
        clip += f"\nmask {escape(outcome.mask)}" if outcome.mask else ""
        used = used_seconds(outcome) if outcome.size else ""
        what = [outcome.reason or f"{outcome.concept}: {outcome.caption}"]
        if outcome.completed_from and not outcome.reason:
            what[0] += f" (completed from {outcome.completed_from!r})"
        what += [f"[yellow]warning:[/] {escape(warning)}" for warning in outcome.warnings]
        style = STYLES[outcome.status]
        text = "\n".join([escape(what[0]), *what[1:]])
        table.add_row(escape(shorten(outcome.source)), f"[{style}]{outcome.status}[/]", clip, used, text)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 140
    console.print(table)
    for warning in report.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}")
    if left := unused_inputs(report):
        many = f"{left} inputs continue" if left > 1 else "1 input continues"
        console.print(f"note: {many} after the last clip; --windows all uses the rest.", soft_wrap=True)
    counts = ", ".join(f"{report.count(status)} {status}" for status in STYLES if report.count(status))
    console.print(
        f"{counts or 'no input'}; clip set {escape(report.to)}; cut to {escape(str(size))}", soft_wrap=True
    )


def used_seconds(outcome: Outcome) -> str:
    """The seconds of an input that a clip shows."""
    whole = "a longer video" if outcome.length is None else f"{outcome.length:.2f} s"
    return f"{outcome.start:.2f}-{outcome.end:.2f} of {whole}"


def unused_inputs(report: Report) -> int:
    """Number of inputs that are long enough for another clip after their last one."""
    last: dict[str, tuple[float, float, float | None]] = {}
    for outcome in report.outcomes:
        if outcome.size and not outcome.variant:
            last[outcome.source] = (outcome.end, outcome.end - outcome.start, outcome.length)
    return sum(length is None or length - end > duration - 1e-3 for end, duration, length in last.values())


def shorten(uri: str) -> str:
    """The path relative to the current folder, if it is inside it."""
    try:
        return str(Path(uri).relative_to(Path.cwd())) if "://" not in uri else uri
    except ValueError:
        return uri
