"""A batch's tables: its plan (packs with memory and time, concepts that are done or stay ended), and its records."""

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
    """Print the packs with memory and time, the concepts that are done, and those that stay ended.

    Args:
        batch: the batch's name.
    """
    foundations = {pack.works[0].foundation or "embedded" for pack in plan.packs}
    column = [Column("foundation", overflow="fold")] if len(foundations) > 1 else []  # space is scarce
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
    left = f"; {len(plan.left)} failed or cancelled before" if plan.left else ""
    console.print(
        f"{len(plan.works)} concepts to train in {len(plan.packs)} packs on {plan.lanes} "
        f"lane{'s' if plan.lanes > 1 else ''}{total}; {len(plan.done)} already done{left}",
        highlight=False,
    )
    for done in plan.done[:20]:
        console.print(
            f"  {done.work.name}: already published as {done.version}", highlight=False, style="dim"
        )
    for one in plan.left:
        why = f" ({one.record.reason})" if one.record.reason else ""
        console.print(
            f"  {one.work.name}: {one.record.status} before{escape(why)}; to train it again, run "
            f"motiondirector runs retry {batch} {one.work.name}",
            highlight=False,
            soft_wrap=True,
        )


def show_remarks(console: Console, remarks: Mapping[str, Sequence[str]], most: int = 12) -> None:
    """Print the first remarks on clips, captions and prompts that are not learned, and the number of others."""
    lines = [f"{name}: {text}" for name, texts in remarks.items() for text in texts]
    for line in lines[:most]:
        console.print(f"[yellow]note:[/] {escape(line)}", highlight=False, soft_wrap=True)
    if len(lines) > most:
        console.print(f"[yellow]note:[/] and {len(lines) - most} more notes", highlight=False)


def show_records(
    console: Console, records: Sequence[Record], validated: Mapping[str, dict[str, Any]]
) -> None:
    """Print one row per concept. `validated`: from `training.batch.watch.validation.validations`."""
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
        asked = "cancelling" if record.cancelling else "paused" if record.paused else None
        state = record.status if asked is None else f"{record.status} ({asked})"
        loss = "" if record.loss is None else f"{record.loss:.4f}"
        said = record.version or record.reason or ""
        scores = [escape(scored(validated.get(record.name)))] if validated else []
        table.add_row(record.name, state, f"{record.step}/{record.steps}", loss, escape(said), *scores)
    console.print(table)


def scored(validation: Mapping[str, Any] | None) -> str:
    """The most telling scores of a validation, or why there are none; `concepts show` has all scores."""
    from training.batch.watch.validation import headline

    if validation is None:
        return ""
    if validation["error"] is not None:
        return f"failed: {validation['error']}"
    return headline(validation["scores"])


def size(count: float) -> str:
    """Bytes in a readable unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def span(seconds: float) -> str:
    """Seconds in a readable unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
