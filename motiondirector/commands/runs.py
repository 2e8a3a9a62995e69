"""`motiondirector runs`: shows batches from any terminal or machine; cancels and retries concepts."""

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
Names = Annotated[list[str] | None, typer.Argument(metavar="CONCEPT...", help="Concepts of the batch.")]

runs = typer.Typer(
    help="Batches of concepts: list, show, logs, cancel, retry.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(runs, name="runs")


def opened(registry: str, batch: str) -> BatchState:
    """The state of an existing batch. Raises UserError."""
    from infra.storage import open_storage
    from training.batch.state.state import open_batch

    state = open_batch(open_storage(registry), batch)
    state.about()
    return state


@runs.command("list")
def list_batches(registry: RegistryUri = DEFAULT_REGISTRY, as_json: AsJson = False) -> None:
    """List every batch with the number of its concepts in each state."""
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
    """Show a batch's concepts, or one concept in full: state, step, loss, lane and history."""
    from motiondirector.batch.tables import show_records
    from training.batch.watch.validation import validations

    state = opened(registry, batch)
    records = state.records() if concept is None else [state.record(concept)]
    validated = validations(state, records)
    if concept is None:
        if as_json:
            print_json([{**overview(record), "evaluation": validated.get(record.name)} for record in records])
        else:
            show_records(Console(), records, validated)
        return
    (record,) = records
    evaluation = validated.get(record.name)
    if as_json:
        print_json(
            {**overview(record), "evaluation": evaluation, "work": record.work, "history": record.history}
        )
        return
    console = Console()
    facts = Table(title=f"{batch}/{concept}", show_header=False)
    for name, value in overview(record).items():
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
    tail: Annotated[int, typer.Option(help="Number of last lines to print.", min=1)] = 200,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing new lines until Ctrl-C.")
    ] = False,
    registry: RegistryUri = DEFAULT_REGISTRY,
    as_json: AsJson = False,
) -> None:
    """Print what lanes logged about a concept, or about themselves. Lines appear about ten seconds after they are logged."""
    from training.batch.watch.logs import Kind, Line, Reader

    if concept is not None and lane is not None:
        raise UserError("a concept and --lane were given; give only one of them.")
    if as_json and follow:
        raise UserError(
            "--json prints one complete answer, but --follow does not end; give only one of them."
        )
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
            f"no log lines of {concept or lane or 'any lane'} in batch {batch}; lanes write them after they have started.",
            code="no_log",
        )
    say(lines)
    while follow:
        time.sleep(FOLLOW_S)
        say(reader.new(kind, concept or lane))


def overview(record: Record) -> dict[str, object]:
    """The main fields of a record, and the lane that holds it."""
    fields = asdict(record)
    lease = fields.pop("lease")
    for name in ("work", "history", "revision", "order"):
        fields.pop(name)
    return {**fields, "lane": lease and lease["owner"]}


def each(
    batch: BatchState,
    names: list[str] | None,
    every: bool,
    suits: Callable[[Record], bool],
    act: Callable[[str], Record],
) -> None:
    """Apply `act` to the named concepts, or to all that suit. With `every`, skips concepts whose state has changed."""
    if bool(names) == every:
        raise UserError("expected either concepts or --all.")
    for name in names or [record.name for record in batch.records() if suits(record)]:
        try:
            record = act(name)
        except Conflict:
            if not every:
                raise
            Console().print(f"{name}: now {batch.record(name).status}, skipped", highlight=False)
            continue
        what = "cancelling; its lane stops within a minute" if record.cancelling else record.status
        Console().print(f"{name}: {what}", highlight=False)


@runs.command("cancel")
def cancel(
    batch: BatchName,
    concepts: Names = None,
    every: Annotated[bool, typer.Option("--all", help="All concepts that have not ended.")] = False,
    registry: RegistryUri = DEFAULT_REGISTRY,
) -> None:
    """Cancel concepts. If a concept is training, its lane stops training it within a minute; other concepts continue."""
    state = opened(registry, batch)
    each(state, concepts, every, lambda record: not record.ended, state.cancel)


@runs.command("retry")
def retry(
    batch: BatchName,
    concepts: Names = None,
    every: Annotated[bool, typer.Option("--all", help="All concepts that failed.")] = False,
    registry: RegistryUri = DEFAULT_REGISTRY,
) -> None:
    """Queue failed or cancelled concepts again. The next free lane of the batch trains them from their first step."""
    state = opened(registry, batch)
    each(state, concepts, every, lambda record: record.status == "failed", state.retry)
