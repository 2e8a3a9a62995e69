"""A batch's tables: its plan (what trains with whom and what it takes, what is done, what stays as it ended), and its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

if TYPE_CHECKING:
    from training.batch.manifest.plan import Plan
    from training.batch.state.record import Record


def show_plan(console: Console, plan: Plan, batch: str) -> None:
    """Packs with what they take, what is done, and what this batch (its name) leaves as it ended before."""
    foundations = {pack.works[0].foundation or "embedded" for pack in plan.packs}
    column = [Column("foundation", overflow="fold")] if len(foundations) > 1 else []  # room is scarce
    columns: tuple[str | Column, ...] = (
        "lane",
        "concepts",
        "at once",
        *column,
        "size",
        "method",
        "rank",
        "steps",
        "memory",
        "time",
    )
    table = Table(*columns, title=None if column else f"foundation: {escape(', '.join(foundations))}")
    for pack in plan.packs:
        steps = [work.config.steps for work in pack.works]
        fixed = pack.base_bytes + pack.adapter_bytes
        memory = f"{size(fixed)} + activations" if pack.peak_bytes is None else size(pack.peak_bytes)
        table.add_row(
            str(pack.lane),
            f"{len(pack.works)}: {', '.join(work.name for work in pack.works[:4])}{', ...' * (len(pack.works) > 4)}",
            str(pack.capacity.members),
            *([escape(pack.works[0].foundation or "embedded")] if column else []),
            str(pack.key.bucket),
            pack.key.forward,
            str(pack.key.rank or "full"),
            f"{min(steps)}-{max(steps)}" if len(set(steps)) > 1 else str(steps[0]),
            memory,
            "not measured" if pack.seconds is None else span(pack.seconds),
        )
    if plan.packs:
        console.print(table)
    total = "" if plan.seconds is None or not plan.packs else f", about {span(plan.seconds)}"
    left = f"; {len(plan.left)} stay as they ended before" if plan.left else ""
    console.print(
        f"{len(plan.works)} concepts to train in {len(plan.packs)} packs on {plan.lanes} "
        f"lane{'s' if plan.lanes > 1 else ''}{total}; {len(plan.done)} done before{left}",
        highlight=False,
    )
    for done in plan.done[:20]:
        console.print(f"  {done.work.name}: {done.version} is the same", highlight=False, style="dim")
    for one in plan.left:
        why = f" ({one.record.reason})" if one.record.reason else ""
        console.print(
            f"  {one.work.name}: {one.record.status} before{escape(why)}; to train it again: "
            f"motiondirector runs retry {batch} {one.work.name}",
            highlight=False,
            soft_wrap=True,
        )


def show_remarks(console: Console, remarks: Mapping[str, Sequence[str]], most: int = 12) -> None:
    """What of clips, captions and prompts is not learned: the first sentences, and how many more there are."""
    lines = [f"{name}: {text}" for name, told in remarks.items() for text in told]
    for line in lines[:most]:
        console.print(f"[yellow]note:[/] {escape(line)}", highlight=False, soft_wrap=True)
    if len(lines) > most:
        console.print(f"[yellow]note:[/] and {len(lines) - most} more like these", highlight=False)


def show_records(
    console: Console, records: Sequence[Record], validated: Mapping[str, dict[str, Any]]
) -> None:
    """One row a concept. `validated` is `training.batch.watch.validation.validations` of them."""
    columns = (
        "concept",
        "state",
        "step",
        "loss",
        "version or reason",
        *(["evaluation"] if validated else []),
    )
    table = Table(*columns)
    for record in records:
        state = f"{record.status} (cancelling)" if record.cancelling else record.status
        loss = "" if record.loss is None else f"{record.loss:.4f}"
        said = record.version or record.reason or ""
        scores = [escape(scored(validated.get(record.name)))] if validated else []
        table.add_row(record.name, state, f"{record.step}/{record.steps}", loss, escape(said), *scores)
    console.print(table)


def scored(validation: Mapping[str, Any] | None) -> str:
    """What says most of a validation, or why there is none; `concepts show` has all."""
    from training.batch.watch.validation import headline

    if validation is None:
        return ""
    if validation["error"] is not None:
        return f"failed: {validation['error']}"
    return headline(validation["scores"])


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def span(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
