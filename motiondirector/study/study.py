"""Runs a study from its options to its tables: `motiondirector study` as a function."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import UserError
from models.load import load_foundation
from motiondirector.progress import Bars, no_bars
from motiondirector.study import report
from motiondirector.study import run as running
from motiondirector.study.check import bounds
from motiondirector.study.config import StudyConfig
from motiondirector.study.methods import METHODS
from motiondirector.study.plan import CAPTIONS, HELD_OUT, MAIN, SIDE_METHODS, TUNED, Plan, Trial
from motiondirector.study.tables import Outcome, gather
from motiondirector.study.targets import Target, targets
from motiondirector.study.trial import has_sheet
from motiondirector.study.videos import made_with
from training.recommended import recommendation, resolve

if TYPE_CHECKING:
    from models.foundations.base import Foundation
    from motiondirector.study.records import Record

OUT = Path("runs/study")


@dataclass(frozen=True)
class Study:
    """The result of a study. Results, tables and sheets are in its folder.

    Args:
        outcomes: a table's values, by kind of captions.
        targets: the targets for the claim that the existing results can decide.
    """

    plan: Plan
    results: dict[Trial, Record]
    outcomes: dict[str, Outcome]
    targets: Sequence[Target]

    def bounds(self) -> list[Target]:
        """The loose bounds for a small study, checked on the first table."""
        return [bound for outcome in list(self.outcomes.values())[:1] for bound in bounds(outcome)]


def run_study(
    config: StudyConfig | None = None,
    out: Path = OUT,
    *,
    report_only: bool = False,
    bars: Bars | None = None,
) -> Study:
    """Run the trials that have no result yet, and write tables, sheets and the report.

    Args:
        out: folder of the results; a study that was begun there continues.
        report_only: run nothing; report on the existing trials.
        bars: shows progress; None shows nothing.

    Raises:
        UserError: unknown motions, methods or settings, a trial failed, or there is nothing to report on.
    """
    config, bars = config or StudyConfig(), bars or no_bars()
    foundation = load_foundation(config.foundation)
    plan = plan_of(config, foundation)
    if report_only:
        results = running.found(running.keys_of(plan, foundation.fingerprint), out)
    else:
        results = run_missing(plan, config, out, foundation.fingerprint, bars)
    if not results:
        raise UserError(
            f"{out / 'trials'} contains none of the {len(plan.trials())} results of this plan; leave out --report-only to "
            "run it, or give the folder, foundation and settings of existing results."
        )
    outcomes = {
        str(of): gather((trial, result) for trial, result in results.items() if trial.captions == of)
        for of in plan.captions
        if any(trial.captions == of for trial in results)
    }
    reached = targets(outcomes)
    report.write_sheets(out, [trial for trial in results if has_sheet(trial, plan)])
    report.write(out, outcomes, len(plan.trials()), reached, facts_of(plan, foundation))
    return Study(plan, results, outcomes, reached)


def plan_of(config: StudyConfig, foundation: Foundation) -> Plan:
    """The plan for these options. Raises UserError for unknown settings, motions or methods."""
    given, quick = dict(config.settings), config.quick
    # report wrong settings before anything runs
    dtype = resolve(given, foundation.recommended).dtype
    if "dtype" in given:
        given["dtype"] = dtype  # results are stored under its canonical name
    # complete recommendations, so that results of other recommendations are never reused
    one, many = (recommendation(foundation.recommended, clips) for clips in (1, 2))
    several = {name: value for name, value in many.items() if name not in given and one.get(name) != value}
    motions = config.motions or (TUNED if config.tuned else HELD_OUT)[: 2 if quick else None]
    return Plan(
        motions=motions,
        references=config.references or ((1,) if quick else (1, 4)),
        captions=config.captions or ((MAIN,) if quick else CAPTIONS),  # type: ignore[arg-type]
        methods=config.methods or (("base", "coupled", "dual") if quick else tuple(METHODS)),
        side_methods=config.methods or SIDE_METHODS,
        seeds=tuple(range(1 if quick else config.seeds)),
        method_seeds=tuple(config.method_seeds.items()),
        side_seeds=config.side_seeds,
        appearances=4 if quick else config.appearances,
        open_videos=8 if quick else config.open_videos,
        settings=tuple(sorted({**one, **given}.items())),
        several=tuple(sorted(several.items())),
        generation=tuple(made_with(foundation, dtype).items()),
        sheets=motions[:2] if config.sheets is None else config.sheets,
    )


def run_missing(
    plan: Plan, config: StudyConfig, out: Path, fingerprint: str, bars: Bars
) -> dict[Trial, Record]:
    """Run the trials that have no result yet, with a bar for the trials and one for each pack."""

    def stepped(name: str, step: int, steps: int) -> None:
        pack_of = f"{name} and its pack"
        bars(pack_of, step, steps)
        if step >= steps:
            bars.done(pack_of)

    bars("trials", 0, len(plan.trials()))
    return running.run_plan(
        plan,
        out,
        fingerprint=fingerprint,
        foundation=config.foundation,
        jobs=config.jobs or os.cpu_count() or 1,
        pack=config.pack,
        on_done=lambda trial, done, total: bars("trials", done, total, trial.name),
        on_step=stepped,
    )


def facts_of(plan: Plan, foundation: Foundation) -> dict[str, Any]:
    """The report's facts about the plan and the foundation."""
    pairs = ("settings", "several", "generation", "method_seeds")
    said = {name: value for name, value in vars(plan).items() if name != "sheets"}
    return {
        "foundation": {"name": foundation.name, "fingerprint": foundation.fingerprint},
        "plan": said | {name: dict(getattr(plan, name)) for name in pairs},
    }
