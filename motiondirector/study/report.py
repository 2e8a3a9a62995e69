"""Reports of the study's results: tables for terminal and Markdown, contact sheets, report.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from datasets.video.writing import contact_sheet
from evaluation.pictures import traced
from evaluation.report import write_json
from infra.files import atomic_file
from motiondirector.study.methods import METHODS, OURS
from motiondirector.study.plan import Trial
from motiondirector.study.tables import COMPARED, FULL, OPEN, Outcome, Shown, cell
from motiondirector.study.targets import Target, case_of
from motiondirector.study.videos import SHOWN, frames_file, kept_frames

if TYPE_CHECKING:
    from PIL import Image

ARROWS = {"higher": "↑", "lower": "↓"}
PAIRED = "in pairs (the same motion, clips, seed)"
TITLES = {
    "class": "Captions name the subject's class alone",
    "full": "Captions name every look, and a word for the motion",
    "word": "Captions name the class and a word for the motion",
    "motion": "Captions say a word for the motion alone",
}
Rows = list[list[str]]


def rows(outcome: Outcome, references: int, shown: Sequence[Shown]) -> Rows:
    """One row per method, cells as text; the header row first. Metrics without values have no column."""
    metrics = [one for one in shown if outcome.measured(one[0])]
    table = [["method", *(f"{title} {ARROWS[better]}" for _, title, better in metrics)]]
    for method in outcome.methods:
        found = [outcome.cells.get((references, method, metric)) for metric, _, _ in metrics]
        if any(found):
            table.append([METHODS[method].title, *(str(c) if c else "-" for c in found)])
    return table


def by_motion(outcome: Outcome, references: int, metric: str = "motion_fidelity") -> Rows:
    """Each motion's mean over its seeds and its worst seed: one row per motion, one column per method."""
    methods = [m for m in outcome.methods if (references, m, metric) in outcome.by_motion]
    table = [["motion", *(METHODS[m].title for m in methods)]]
    for motion in outcome.motions:
        row = [motion]
        for method in methods:
            trials = outcome.by_motion[references, method, metric].get(motion, [])
            mean = cell(trials)
            row.append(f"{mean.mean:.2f} ({min(trials):.2f})" if mean else "-")
        table.append(row)
    return table


def pairs(outcome: Outcome, references: int) -> Rows:
    """Ours minus each other method, paired by trial: one row per method; without ours only the header."""
    metrics = [one for one in COMPARED if outcome.measured(one[0])]
    table = [["ours minus", *(f"{title} {ARROWS[better]}" for _, title, better in metrics)]]
    for method in outcome.methods if OURS in outcome.methods else []:
        found = [outcome.paired(references, OURS, method, metric) for metric, _, _ in metrics]
        if method != OURS and any(found):
            table.append([METHODS[method].title, *(c.text("+.2f") if c else "-" for c in found)])
    return table


def observed(outcome: Outcome) -> str:
    """Describes what means and intervals are taken over."""
    if len(outcome.motions) == 1:
        return "means over the trials of one motion, with 95 % intervals over them"
    return "means over motions (of each its trials' mean), with 95 % intervals over the motions"


def sections(outcome: Outcome, references: int) -> list[tuple[str, Rows]]:
    """The tables for one number of reference clips, with titles; tables without rows are left out."""
    found = [
        ("Prompts that name every look", rows(outcome, references, FULL)),
        ("Open prompts: the class alone (against the base's videos)", rows(outcome, references, OPEN)),
        (f"Ours and each other method, {PAIRED}", pairs(outcome, references)),
        ("Motion fidelity by motion: mean over seeds (worst seed)", by_motion(outcome, references)),
        (
            "The same of open prompts",
            by_motion(outcome, references, "open_motion_fidelity"),
        ),
    ]
    return [(title, table) for title, table in found if len(table) > 1 and len(table[0]) > 1]


def terminal(outcome: Outcome, captions: str, references: int) -> list[Table]:
    """The first three of `sections` as tables for the terminal, without those by motion."""
    made = []
    for title, (header, *body) in sections(outcome, references)[:3]:
        table = Table(*header, title=f"{TITLES[captions]}, {case_of(references)}. {title}")
        for row in body:
            table.add_row(*row, style="bold" if row[0] == METHODS[OURS].title else None)
        made.append(table)
    return made


def verdicts(targets: Sequence[Target]) -> Table:
    """A table of the targets and the values reached."""
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


def tables_markdown(
    outcomes: Mapping[str, Outcome], done: int, planned: int, targets: Sequence[Target]
) -> str:
    """All tables of the study in Markdown, the targets first."""
    whole = "" if done == planned else ", **the others have no result yet**"
    observations = next((observed(outcome) for outcome in outcomes.values()), "")
    parts = [f"{done} of {planned} trials{whole}: {observations}."]
    if targets:
        table = [["target", "wanted", "reached", "met"]]
        table += [[t.what, t.wanted, t.reached, "yes" if t.met else "no"] for t in targets]
        parts += ["## Targets", markdown(table)]
    for captions, outcome in outcomes.items():
        parts.append(f"## {TITLES[captions]}")
        for references in outcome.references:
            parts.append(f"### {case_of(references).capitalize()}")
            for title, table in sections(outcome, references):
                parts += [f"{title}:", markdown(table)]
    return "\n\n".join(parts) + "\n"


def sheet(trials: Sequence[Trial], out: Path) -> Image.Image | None:
    """A contact sheet of one motion: its first reference clip, then each method's videos for some prompts.

    Measured paths are drawn over the frames.

    Args:
        trials: of one motion, number of clips, seed and captions, one per method. Trials without kept
            frames are left out.
    """
    kept = [
        (trial, kept_frames(path)) for trial in trials if (path := frames_file(out, trial.name)).is_file()
    ]
    if not kept:
        return None
    title, reference = kept[0][1][0]
    shown = [(title, traced(reference))]
    for number in range(1, len(kept[0][1])):
        kind = "" if number <= SHOWN else "open: "
        for trial, videos in kept:
            prompt, video = videos[number]
            shown.append((f"{METHODS[trial.method].title}: {kind}{prompt}", traced(video)))
    return contact_sheet(shown, cell_width=96)


def write_sheets(out: Path, trials: Sequence[Trial]) -> None:
    """Write sheets/<motion>-<references>.png from kept frames; without frames, an existing sheet stays."""
    alike: dict[tuple[str, int, int, str], list[Trial]] = {}
    for trial in trials:
        alike.setdefault((trial.motion, trial.references, trial.seed, trial.captions), []).append(trial)
    for (motion, references, _, _), of in alike.items():
        picture = sheet(of, out)
        if picture is not None:
            with atomic_file(out / "sheets" / f"{motion}-{references}.png") as temporary:
                # A palette needs a quarter of the bytes, and a sheet has few colours.
                picture.quantize(256).save(temporary, format="PNG", optimize=True)


def write(
    out: Path,
    outcomes: Mapping[str, Outcome],
    planned: int,
    targets: Sequence[Target],
    facts: dict[str, Any],
) -> None:
    """Write report.json and tables.md to `out`, each atomically.

    Args:
        outcomes: by captions.
        planned: number of trials of the plan. If the outcomes have fewer, both files say so.
    """
    done = sum(len(outcome.trials) for outcome in outcomes.values())
    cells = [
        {"captions": captions, "references": n, "method": method, "metric": metric, **asdict(c)}
        for captions, outcome in outcomes.items()
        for (n, method, metric), c in outcome.cells.items()
    ]
    apart = [
        {
            "captions": captions,
            "references": n,
            "method": OURS,
            "minus": method,
            "metric": metric,
            **asdict(c),
        }
        for captions, outcome in outcomes.items()
        for n in outcome.references
        for method in outcome.methods
        for metric, _, _ in COMPARED
        if method != OURS and (c := outcome.paired(n, OURS, method, metric)) is not None
    ]
    record = {
        **facts,
        "trials": f"{done} of {planned}",
        "cells": cells,
        "paired": apart,
        "targets": [asdict(t) for t in targets],
    }
    write_json(record, out / "report.json")
    with atomic_file(out / "tables.md") as temporary:
        temporary.write_text(tables_markdown(outcomes, done, planned, targets))
