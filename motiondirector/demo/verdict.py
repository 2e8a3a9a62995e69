"""The results of the batch demo's concepts as one table, and all deviations from what is expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.table import Table

from training.batch.watch.validation import told_first

if TYPE_CHECKING:
    from infra.registry import Registry
    from motiondirector.demo.crowd import Member, Part
    from training.batch.state.record import Record


@dataclass(frozen=True)
class Row:
    """The final state of one concept."""

    concept: str
    part: Part
    status: str  # of its record; "absent" if the batch has none
    versions: tuple[str, ...]  # in the registry
    version: str | None  # in its record
    lanes: tuple[str, ...]  # that held it, in order
    lost: int  # number of lanes that died while holding it
    steps: int
    loss: float | None
    scores: dict[str, float]
    unscored: str | None  # why there are no scores
    reason: str | None  # why it failed


def rows_of(
    members: Sequence[Member],
    records: Sequence[Record],
    validated: Mapping[str, Mapping[str, Any]],
    registry: Registry,
) -> list[Row]:
    """A row for each member. `validated` is `training.batch.watch.validation.validations` of the records."""
    known = {record.name: record for record in records}
    rows = []
    for one in members:
        record, found = known.get(one.name), validated.get(one.name)
        versions = tuple(version.ref for version in registry.versions(one.name))
        if record is None:
            rows.append(
                Row(one.name, one.part, "absent", versions, None, (), 0, 0, None, {}, None, "never entered")
            )
            continue
        rows.append(
            Row(
                concept=one.name,
                part=one.part,
                status=record.status,
                versions=versions,
                version=record.version,
                lanes=tuple(note for _, status, note in record.history if status == "preparing"),
                lost=record.lost,
                steps=record.step,
                loss=record.loss,
                scores={} if found is None else dict(found["scores"]),
                unscored="not validated" if found is None else found["error"],
                reason=record.reason,
            )
        )
    return rows


def faults_of(rows: Sequence[Row], clips: Sequence[str]) -> list[str]:
    """One sentence for each deviation from the expected result; empty if there is none.

    Args:
        clips: ids of the damaged clips.
    """
    faults = []
    for row in rows:
        if row.part == "damaged":
            if row.status != "failed" or row.versions:
                faults.append(
                    f"{row.concept} has a damaged clip and should have failed; it is {row.status}, published as "
                    f"{', '.join(row.versions) or 'nothing'}."
                )
            elif not any(clip in (row.reason or "") for clip in clips):
                faults.append(f"{row.concept} failed without naming its damaged clip: {row.reason}")
            continue
        if row.status != "published":
            faults.append(
                f"{row.concept} should have been published; it is {row.status}: {row.reason or 'no reason'}"
            )
        elif row.versions != (row.version,):
            faults.append(
                f"{row.concept} should be in the registry once, as {row.version}; there is "
                f"{', '.join(row.versions) or 'nothing'}."
            )
        elif row.unscored or not row.scores:
            faults.append(
                f"{row.concept} is published without scores: {row.unscored or 'no metric suits it'}"
            )
        if row.lost and len(set(row.lanes)) < 2:
            faults.append(f"{row.concept} lost its lane, and no other is on record for it: {row.lanes}")
    if not any(row.lost for row in rows):
        faults.append("a node was killed, and no concept lost its lane by that.")
    return faults


def table_of(rows: Sequence[Row]) -> Table:
    """The table of concepts with lanes in order and scores; `reasons_of` tells why some have none."""
    scores = list(dict.fromkeys(name for row in rows for name in told_first(row.scores)))
    table = Table(box=SIMPLE, pad_edge=False)
    for name in ("concept", "status", "lanes"):
        table.add_column(name, no_wrap=True)
    for name in scores:  # their numbers are short, so their headings may wrap first
        heading = name.removeprefix("appearance ").replace(" ", "\n")
        table.add_column(heading, justify="right", overflow="fold", min_width=5)
    for row in rows:
        table.add_row(
            (", ".join(row.versions) or row.concept) + (f"\n({row.part})" if row.part != "good" else ""),
            row.status,
            "\n".join(row.lanes),
            *(f"{row.scores[name]:.2f}" if name in row.scores else "" for name in scores),
        )
    return table


def reasons_of(rows: Sequence[Row]) -> list[str]:
    """A line for each concept that failed or has no scores: why."""
    # Not in the table: a table wider than the terminal is cut at its right edge.
    return [f"{row.concept}: {reason}" for row in rows if (reason := row.reason or row.unscored)]
