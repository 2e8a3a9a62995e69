"""`motiondirector runs`: what batches do, from any terminal or machine; cancel, and try again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.errors import Conflict, NotFound, UserError
from motiondirector.commands.concepts import DEFAULT_REGISTRY, AsJson, RegistryUri
from motiondirector.output import print_json

if TYPE_CHECKING:
    from training.batch.state.record import Record
    from training.batch.state.state import BatchState

FOLLOW_S = 3.0

BatchName = Annotated[str, typer.Argument(metavar="BATCH", help="A batch that `runs list` shows.")]
Names = Annotated[list[str] | None, typer.Argument(metavar="CONCEPT...", help="Which of its concepts.")]

runs = typer.Typer(
    help="Batches of concepts: list, show, logs, cancel, retry.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(runs, name="runs")


def opened(registry: str, batch: str) -> BatchState:
    """A batch that was begun. Raises UserError."""
    from infra.storage import open_storage
    from training.batch.state.state import open_batch

    state = open_batch(open_storage(registry), batch)
    state.about()
    return state


@runs.command("list")
def list_batches(registry: RegistryUri = DEFAULT_REGISTRY, as_json: AsJson = False) -> None:
    """Every batch with how many of its concepts are where."""
    from infra.storage import open_storage
    from training.batch.state.state import batches, open_batch

    storage = open_storage(registry)
    counts: dict[str, Counter[str]] = {
        name: Counter(record.status for record in open_batch(storage, name).records())
        for name in batches(storage)
    }
    if as_json:
        print_json(counts)
        return
    columns = ("queued", "preparing", "training", "published", "failed", "cancelled")
    table = Table("batch", *columns, title=escape(f"{len(counts)} batches in {registry}"))
    for name, found in counts.items():
        table.add_row(name, *(str(found[column] or "") for column in columns))
    Console().print(table)


@runs.command("show")
def show(
    batch: BatchName,
    concept: Annotated[str | None, typer.Argument(metavar="[CONCEPT]", help="One of its concepts.")] = None,
    registry: RegistryUri = DEFAULT_REGISTRY,
    as_json: AsJson = False,
) -> None:
    """A batch's concepts, or all about one: state, step, loss, lane, and what happened."""
    from motiondirector.batch.tables import show_records
    from training.batch.watch.validation import validations

    state = opened(registry, batch)
    records = state.records() if concept is None else [state.record(concept)]
    validated = validations(state, records)
    if concept is None:
        if as_json:
            print_json([{**told(record), "evaluation": validated.get(record.name)} for record in records])
        else:
            show_records(Console(), records, validated)
        return
    (record,) = records
    evaluation = validated.get(record.name)
    if as_json:
        print_json({**told(record), "evaluation": evaluation, "work": record.work, "history": record.history})
        return
    console = Console()
    facts = Table(title=f"{batch}/{concept}", show_header=False)
    for name, value in told(record).items():
        if value is not None:
            facts.add_row(name, escape(str(value)))
    if evaluation is not None:
        facts.add_row("evaluation", escape(evaluation["error"] or f"in {evaluation['seconds']} s"))
        for name, mean in evaluation["scores"].items():
            facts.add_row(escape(f"  {name}"), f"{mean:.4f}")
    console.print(facts)
    for at, status, note in record.history:
        when = datetime.fromtimestamp(at, UTC)
        console.print(f"{when:%Y-%m-%d %H:%M:%S} UTC  {status:10} {escape(note)}", highlight=False)


@runs.command("logs")
def logs(
    batch: BatchName,
    concept: Annotated[
        str | None,
        typer.Argument(metavar="[CONCEPT]", help="One of its concepts.", show_default="its lanes"),
    ] = None,
    lane: Annotated[
        str | None, typer.Option(help="One of its lanes, as `runs show` names them.", show_default=False)
    ] = None,
    tail: Annotated[int, typer.Option(help="The last so many lines.", min=1)] = 200,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as lines come, until Ctrl-C.")
    ] = False,
    registry: RegistryUri = DEFAULT_REGISTRY,
    as_json: AsJson = False,
) -> None:
    """What the lanes wrote about a concept, or about themselves. Lines come some ten seconds after they were written."""
    from training.batch.watch.logs import Kind, Line, Reader

    if concept is not None and lane is not None:
        raise UserError("give a concept or --lane, not both.")
    if as_json and follow:
        raise UserError("--json is one answer, and --follow has no end; give one of them.")
    state = opened(registry, batch)
    if concept is not None:
        state.record(concept)
    kind: Kind = "lanes" if concept is None else "concepts"
    reader, console = Reader(state.storage), Console()

    def say(lines: list[Line]) -> None:
        for line in lines:
            when = datetime.fromtimestamp(line.time, UTC)
            text = f"{when:%Y-%m-%d %H:%M:%S} UTC  {line.lane}  {escape(line.text)}"
            console.print(text, highlight=False, soft_wrap=True)

    lines = reader.new(kind, concept or lane)[-tail:]
    if as_json:
        print_json([asdict(line) for line in lines])
        return
    if not lines and not follow:
        raise NotFound(
            f"no log lines of {concept or lane or 'any lane'} in batch {batch}; a lane writes them once it has begun.",
            code="no_log",
        )
    say(lines)
    while follow:
        time.sleep(FOLLOW_S)
        say(reader.new(kind, concept or lane))


def told(record: Record) -> dict[str, object]:
    """A record at a glance."""
    told = asdict(record)
    lease = told.pop("lease")
    for name in ("work", "history", "revision", "order"):
        told.pop(name)
    return {**told, "lane": lease and lease["owner"]}


def each(
    batch: BatchState,
    names: list[str] | None,
    every: bool,
    suits: Callable[[Record], bool],
    act: Callable[[str], Record],
) -> None:
    """Do something to the named concepts, or to all that it suits: one of those that it no longer suits is passed over."""
    if bool(names) == every:
        raise UserError("give the concepts, or --all (not both).")
    for name in names or [record.name for record in batch.records() if suits(record)]:
        try:
            record = act(name)
        except Conflict:
            if not every:
                raise
            Console().print(f"{name}: {batch.record(name).status} meanwhile", highlight=False)
            continue
        what = "cancelling; its lane lets go within a minute" if record.cancelling else record.status
        Console().print(f"{name}: {what}", highlight=False)


@runs.command("cancel")
def cancel(
    batch: BatchName,
    concepts: Names = None,
    every: Annotated[bool, typer.Option("--all", help="All that have not ended.")] = False,
    registry: RegistryUri = DEFAULT_REGISTRY,
) -> None:
    """Do not train these concepts. One that trains is let go by its lane within moments; others go on."""
    state = opened(registry, batch)
    each(state, concepts, every, lambda record: not record.ended, state.cancel)


@runs.command("retry")
def retry(
    batch: BatchName,
    concepts: Names = None,
    every: Annotated[bool, typer.Option("--all", help="All that failed.")] = False,
    registry: RegistryUri = DEFAULT_REGISTRY,
) -> None:
    """Let failed or cancelled concepts train again, from their beginning, by whatever lane works on the batch next."""
    state = opened(registry, batch)
    each(state, concepts, every, lambda record: record.status == "failed", state.retry)
