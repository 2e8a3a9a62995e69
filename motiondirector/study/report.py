"""The study's results as people read them: tables for terminal and Markdown, contact sheets, report.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from datasets.video import contact_sheet
from evaluation.pictures import traced
from evaluation.report import write_json
from infra.files import atomic_file
from motiondirector.study.run import Done
from motiondirector.study.tables import COMPARED, OURS, SHOWN, Outcome, Target
from motiondirector.study.trial import FRAMES

if TYPE_CHECKING:
    from PIL import Image

TITLES = {
    "base": "base model",
    "coupled": "coupled LoRA",
    "no-debias": "dual path, no debiasing",
    "full": "temporal layers fine-tuned",
    OURS: "ours (dual path, debiased)",
}
ARROWS = {"higher": "↑", "lower": "↓"}
PAIRED = "in pairs (the same motion, clips, seed)"


def case_of(references: int) -> str:
    """ "single clip", "4 clips"."""
    return "single clip" if references == 1 else f"{references} clips"


def rows(outcome: Outcome, references: int) -> list[list[str]]:
    """One row a method, cells as text; the header row first."""
    table = [["method", *(f"{title} {ARROWS[better]}" for _, title, better in SHOWN), "train s"]]
    for method in outcome.methods:
        found = [outcome.cells.get((references, method, metric)) for metric, _, _ in SHOWN]
        took = outcome.seconds.get((references, method))
        seconds = f"{took.mean:.0f}" if took and method != "base" else "-"
        table.append([TITLES[method], *(str(c) if c else "-" for c in found), seconds])
    return table


def by_motion(outcome: Outcome, references: int) -> list[list[str]]:
    """Motion fidelity and leakage of each motion: one row a motion, one column a method."""
    table = [["motion", *(TITLES[m] for m in outcome.methods)]]
    for motion in outcome.motions:
        row = [motion]
        for method in outcome.methods:
            fidelity = outcome.by_motion.get((references, method, "motion_fidelity", motion))
            leak = outcome.by_motion.get((references, method, "appearance_leakage", motion))
            row.append(f"{fidelity.mean:.2f} / {leak.mean:.2f}" if fidelity and leak else "-")
        table.append(row)
    return table


def pairs(outcome: Outcome, references: int) -> list[list[str]]:
    """Ours minus each other method, trial against trial: one row a method; the header alone without ours."""
    shown = {metric: f"{title} {ARROWS[better]}" for metric, title, better in SHOWN}
    table = [["ours minus", *(shown[metric] for metric in COMPARED)]]
    if OURS in outcome.methods:
        for method in outcome.methods:
            if method != OURS:
                found = [outcome.paired(references, OURS, method, metric) for metric in COMPARED]
                table.append([TITLES[method], *(c.told("+.2f") if c else "-" for c in found)])
    return table


def observed(outcome: Outcome) -> str:
    """What the means and intervals are over, in words."""
    if len(outcome.motions) == 1:
        return "means over the trials of one motion, with 95 % intervals over them"
    return "means over motions (of each its trials' mean), with 95 % intervals over the motions"


def terminal(outcome: Outcome, references: int) -> list[Table]:
    """The methods' table for the terminal, and what ours is apart from each."""
    case = case_of(references).capitalize()
    header, *body = rows(outcome, references)
    table = Table(*header, title=f"{case}: {observed(outcome)}")
    for row in body:
        table.add_row(*row, style="bold" if row[0] == TITLES[OURS] else None)
    header, *body = pairs(outcome, references)
    if not body:
        return [table]
    apart = Table(*header, title=f"{case}, {PAIRED}")
    for row in body:
        apart.add_row(*row)
    return [table, apart]


def verdicts(targets: Sequence[Target]) -> Table:
    """What was to be reached, and what was."""
    table = Table("target", "wanted", "reached", "")
    for target in targets:
        table.add_row(
            target.what, target.wanted, target.reached, "[green]met[/]" if target.met else "[red]missed[/]"
        )
    return table


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    header, *body = table
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])


def sheet(done: Sequence[Done], motion: str, references: int, *, videos: int = 3) -> Image.Image | None:
    """One motion at a glance: its first reference clip, then for some prompts each method's video, with measured ways.

    Of the first seed whose frames are at hand, None when there is none: results may have come without them, from another
    machine.
    """
    by_seed: dict[int, list[Done]] = {}
    for one in done:
        if one.trial.motion == motion and one.trial.references == references:
            by_seed.setdefault(one.trial.seed, []).append(one)
    most = max(map(len, by_seed.values()), default=0)
    whole = (
        trials
        for _, trials in sorted(by_seed.items())
        if len(trials) == most and all((one.folder / FRAMES).is_file() for one in trials)
    )
    trials = next(whole, None)
    if trials is None:
        return None
    shown: list[tuple[str, np.ndarray]] = []
    for one in trials:
        frames, result = np.load(one.folder / FRAMES), one.result
        if not shown:
            shown.append((f"reference: {result['captions'][0]}", traced(frames["references"][0])))
        for i in range(min(videos, len(frames["videos"]))):
            shown.append(
                (f"{i + 1}. {TITLES[one.trial.method]}: {result['prompts'][i]}", traced(frames["videos"][i]))
            )
    head, *rest = shown
    return contact_sheet([head, *sorted(rest, key=lambda row: row[0].split(".")[0])], cell_width=96)


def write(
    out: Path,
    done: Sequence[Done],
    planned: int,
    outcome: Outcome,
    targets: Sequence[Target],
    facts: dict[str, Any],
) -> None:
    """report.json, tables.md and sheets/<motion>-<references>.png in `out`, each whole or not at all.

    A sheet that cannot be drawn, for want of frames, leaves the one that is there.

    Args:
        planned: trials of the plan; `done` may be fewer, and then both files say so.
    """
    for references in outcome.references:
        for motion in outcome.motions:
            picture = sheet(done, motion, references)
            if picture is not None:
                with atomic_file(out / "sheets" / f"{motion}-{references}.png") as temporary:
                    # A palette is a quarter of the bytes, and what a sheet shows has few colours.
                    picture.quantize(256).save(temporary, format="PNG", optimize=True)
    cells = [
        {"references": n, "method": method, "metric": metric, **asdict(c)}
        for (n, method, metric), c in outcome.cells.items()
    ]
    apart = [
        {"references": n, "method": OURS, "minus": method, "metric": metric, **asdict(c)}
        for n in outcome.references
        for method in outcome.methods
        for metric in COMPARED
        if method != OURS and (c := outcome.paired(n, OURS, method, metric)) is not None
    ]
    record = {
        **facts,
        "trials": f"{len(done)} of {planned}",
        "interval": observed(outcome),
        "cells": cells,
        "paired": apart,
        "targets": [asdict(t) for t in targets],
    }
    write_json(record, out / "report.json")
    with atomic_file(out / "tables.md") as temporary:
        temporary.write_text(tables_markdown(len(done), planned, outcome, targets))


def tables_markdown(done: int, planned: int, outcome: Outcome, targets: Sequence[Target]) -> str:
    """Every table of the study in Markdown."""
    whole = "" if done == planned else ", **the others have no result yet**"
    parts = [f"{done} of {planned} trials{whole}: {observed(outcome)}."]
    for references in outcome.references:
        parts += [f"## {case_of(references).capitalize()}", markdown(rows(outcome, references))]
        apart = pairs(outcome, references)
        if len(apart) > 1:
            parts += [f"Ours and each other method, {PAIRED}:", markdown(apart)]
        parts += ["By motion (motion fidelity / leakage):", markdown(by_motion(outcome, references))]
    told = [["target", "wanted", "reached", "met"]]
    told += [[t.what, t.wanted, t.reached, "yes" if t.met else "no"] for t in targets]
    return "\n\n".join([*parts, "## Targets", markdown(told)]) + "\n"
