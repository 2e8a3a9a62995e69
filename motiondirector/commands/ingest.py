"""`motiondirector ingest`: videos become a clip set."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from infra.errors import UserError
from motiondirector.cli import ConfigFile
from motiondirector.output import print_json

if TYPE_CHECKING:
    from datasets.ingest import Outcome, Report

STYLES = {"accepted": "green", "duplicate": "yellow", "refused": "red", "ignored": "dim"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(ingest)


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
            "--to", help="The clip set: a folder or s3://bucket/prefix. Made if new, else appended to."
        ),
    ],
    concept: Annotated[
        str | None, typer.Option(help="The motion's name, such as car-turn: a-z, 0-9, '.', '_', '-'.")
    ] = None,
    caption: Annotated[
        str | None,
        typer.Option(
            help='What all the clips show: subject and motion, such as "a car turns at a crossing".'
        ),
    ] = None,
    captions: Annotated[
        str | None,
        typer.Option(
            help="A .csv, .tsv or .jsonl file with `file` and `caption`, for videos that show different things. Put a "
            "caption with a comma in quotes."
        ),
    ] = None,
    complete_captions: Annotated[
        str | None,
        typer.Option(
            "--complete-captions",
            metavar="sprites|FOLDER",
            help="Add to each caption what the clip shows and the words leave out. `sprites`: colour, texture, shape and "
            "background, by the sprite world's tracker. FOLDER: what a transformers model of images to text (BLIP, a "
            "vision-language model; safetensors) says of the middle frame.",
        ),
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of a clip. Default: the foundation's.")] = None,
    height: Annotated[int | None, typer.Option(help="Height in pixels. Default: the foundation's.")] = None,
    width: Annotated[int | None, typer.Option(help="Width in pixels. Default: the foundation's.")] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            help="Frames a second; fewer show more of a slow motion. 0: the source's own. Default: the foundation's."
        ),
    ] = None,
    start: Annotated[float, typer.Option(help="Where the clip begins, in seconds.")] = 0.0,
    windows: Annotated[
        str,
        typer.Option(
            help="Most clips that are cut out of one video, one after another; `all`: every one that fits. 1: the first."
        ),
    ] = "4",
    every_clip: Annotated[bool, typer.Option("--every-clip", help="The same as --windows all.")] = False,
    foundation: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub id of the model the clips are for: its size is the default and is checked."
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Store nothing when any input is refused.")
    ] = False,
    ray: Annotated[
        bool, typer.Option("--ray", help="Do the work with Ray Data, for thousands of videos.")
    ] = False,
    address: Annotated[str | None, typer.Option(help="With --ray: a running cluster, host:6379.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON instead of a table.")
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Cut clips of one size out of videos and add them, with captions, to a Parquet clip set.

    The run ends with a table of every input: accepted, with the seconds of it that are used, or refused and why. A video
    longer than a clip gives up to four, one after another (--windows). Accepted clips are stored even if
    others are refused (--strict: all or none). A clip the set already has is a duplicate: it is not stored again,
    so the same command twice changes nothing. The exit code is 2 when no input is in the set afterwards.

    Examples:

      motiondirector ingest fox.mp4 --concept run --caption "a fox is running" --to clips/

      motiondirector ingest videos/ --captions captions.csv --concept car-turn --to s3://bucket/clips --fps 8

      motiondirector ingest long.mp4 --windows all --concept dance --caption "a man dances" --to clips/ --frames 16 --height 256 --width 256
    """
    from datasets.completing import completer
    from datasets.ingest import ingest as ingest_here
    from datasets.ingest import summary
    from datasets.select import Selection
    from datasets.sources import Captions, expand
    from infra.registry import check_concept_name
    from infra.storage import open_storage
    from models.locating import text_limit

    if concept is not None:
        check_concept_name(concept)
    if address and not ray:
        raise UserError("--address names a Ray cluster; add --ray.", code="invalid_selection")
    frames, height, width, fps, model = bucket_for(foundation, frames, height, width, fps)
    most = None if every_clip else parse_windows(windows)
    selection = Selection(frames, height, width, fps=fps or None, start=start, windows=most)
    given = Captions(captions) if captions else None
    target = open_storage(to)
    sources = expand(source)
    options: dict[str, Any] = {"concept": concept, "caption": caption, "captions": given, "strict": strict}
    if complete_captions is not None:
        completer(complete_captions)  # what is wrong with it is said before anything is read
        options["complete"] = complete_captions
    options["warn"] = text_limit(foundation).warning
    console = Console(stderr=True)
    with progress_bar(console, len(sources)) as advance:
        if ray:
            from datasets.ray_ingest import ingest_with_ray
            from infra.cluster import ray_session

            with ray_session(address):
                report = ingest_with_ray(sources, selection, target, on_progress=advance, **options)
        else:
            report = ingest_here(sources, selection, target, on_progress=advance, **options)
    show(report, as_json, {"frames": frames, "height": height, "width": width, "foundation": model})
    if not report.count("accepted") and not report.count("duplicate"):
        raise UserError(
            f"no clip was accepted and nothing was stored; {summary(report)}", code="nothing_accepted"
        )


def bucket_for(
    foundation: str | None, frames: int | None, height: int | None, width: int | None, fps: float | None
) -> tuple[int, int, int, float, str | None]:
    """(frames, height, width, fps, name of the foundation): as given, the rest from the foundation, whose limits hold.

    The foundation is asked (without reading its weights) only when something is missing or it was named.
    """
    if foundation is None and None not in (frames, height, width, fps):
        return frames, height, width, fps, None  # type: ignore[return-value]
    from models.locating import foundation_sizes
    from models.sizes import Bucket

    sizes = foundation_sizes(foundation)
    usual = sizes.defaults
    bucket = Bucket(frames or usual.bucket.frames, height or usual.bucket.height, width or usual.bucket.width)
    sizes.check(bucket)
    return bucket.frames, bucket.height, bucket.width, usual.fps if fps is None else fps, sizes.name


def parse_windows(text: str) -> int | None:
    """A number of clips; None for "all". Raises UserError."""
    if text.strip().lower() == "all":
        return None
    try:
        return int(text)
    except ValueError:
        raise UserError(
            f"--windows {text[:80]}: expected a number of clips, or all.", code="invalid_selection"
        ) from None


def progress_bar(console: Console, total: int) -> Any:
    """A context whose value is called with (done, total)."""
    if not console.is_terminal:
        return nullcontext()
    from contextlib import contextmanager

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

    @contextmanager
    def bar() -> Any:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=total)
            yield lambda done, of: progress.update(task, completed=done, total=of)

    return bar()


def show(report: Report, as_json: bool, size: dict[str, Any]) -> None:
    """The report on stdout. `size` is what the clips were cut to, and for which foundation (None: as given)."""
    if as_json:
        print_json({**report.as_json(), "size": size})
        return
    table = Table(title=None, show_edge=False, pad_edge=False)
    for name in ("input", "", "clip", "used", "what"):
        table.add_column(name, overflow="fold")
    for outcome in report.outcomes:
        clip = f"{outcome.size} at {outcome.fps:.4g} fps" if outcome.size else ""
        used = used_seconds(outcome) if outcome.size else ""
        what = [outcome.reason or f"{outcome.concept}: {outcome.caption}"]
        if outcome.completed_from and not outcome.reason:
            what[0] += f" (completed from {outcome.completed_from!r})"
        what += [f"[yellow]warning:[/] {escape(warning)}" for warning in outcome.warnings]
        style = STYLES[outcome.status]
        told = "\n".join([escape(what[0]), *what[1:]])
        table.add_row(escape(shorten(outcome.source)), f"[{style}]{outcome.status}[/]", clip, used, told)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 140
    console.print(table)
    for warning in report.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}")
    if left := unused_inputs(report):
        many = f"{left} inputs go" if left > 1 else "1 input goes"
        console.print(f"note: {many} on after the last clip; --windows all uses the rest.", soft_wrap=True)
    counts = ", ".join(f"{report.count(status)} {status}" for status in STYLES if report.count(status))
    cut = f"{size['frames']}x{size['height']}x{size['width']} (frames, height, width)"
    cut += f" for {size['foundation']}" if size["foundation"] else ""
    console.print(
        f"{counts or 'no input'}; clip set {escape(report.to)}; cut to {escape(cut)}", soft_wrap=True
    )


def used_seconds(outcome: Outcome) -> str:
    """Which seconds of an input a clip shows."""
    whole = "more" if outcome.length is None else f"{outcome.length:.2f} s"
    return f"{outcome.start:.2f}-{outcome.end:.2f} of {whole}"


def unused_inputs(report: Report) -> int:
    """How many inputs go on for another clip's length after their last one."""
    last: dict[str, tuple[float, float, float | None]] = {}
    for outcome in report.outcomes:
        if outcome.size:
            last[outcome.source] = (outcome.end, outcome.end - outcome.start, outcome.length)
    return sum(length is None or length - end > duration - 1e-3 for end, duration, length in last.values())


def escape(text: str) -> str:
    """Text as it is, brackets included."""
    from rich.markup import escape as rich_escape

    return rich_escape(text)


def shorten(uri: str) -> str:
    """The path as seen from here, if it is below."""
    try:
        return str(Path(uri).relative_to(Path.cwd())) if "://" not in uri else uri
    except ValueError:
        return uri
