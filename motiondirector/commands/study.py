"""`motiondirector study`: the method's claim, measured: all methods, held-out motions, open and full prompts, several seeds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from infra.errors import UserError
from motiondirector.cli import ConfigFile
from motiondirector.exits import NOT_DONE


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(study)


def study(
    out: Annotated[Path, typer.Option(help="Folder of the results; a study begun there goes on.")] = Path(
        "runs/study"
    ),
    quick: Annotated[
        bool,
        typer.Option(
            help="A few minutes: the main table of two motions, one clip, one seed, base, coupled and ours."
        ),
    ] = False,
    tuned: Annotated[
        bool, typer.Option(help="On the motions that settings may be tuned on, instead of the held-out ones.")
    ] = False,
    motion: Annotated[
        list[str] | None, typer.Option(help="Novel motions (repeat); default: all held-out ones.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="base, coupled, coupled-temporal, full, motiondirector, no-debias, debiased, dual (repeat); default: all, and in the "
            "tables of other captions than class those that tell whether captions matter."
        ),
    ] = None,
    references: Annotated[
        list[int] | None, typer.Option(help="Reference clips of a concept (repeat); default: 1 and 4.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Training seeds of each method.", min=1)] = 5,
    method_seeds: Annotated[
        list[str] | None,
        typer.Option(help="METHOD=SEEDS of one that is to have fewer (repeat). Default: full=3."),
    ] = None,
    side_seeds: Annotated[
        int, typer.Option(help="Seeds in the tables of other captions than class.", min=1)
    ] = 2,
    appearances: Annotated[
        int, typer.Option(help="Videos of each trial from prompts that name every look.", min=1)
    ] = 10,
    open_videos: Annotated[
        int, typer.Option(help="Videos of each trial from prompts that name a class alone.", min=0)
    ] = 16,
    setting: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE of a training setting, for every trial (repeat).")
    ] = None,
    captions: Annotated[
        list[str] | None,
        typer.Option(
            help="What the reference clips' captions say (repeat), a table each: class (the subject's class alone), full (every look "
            "and a word for the motion), word (class and word), motion (the word alone). Default: all."
        ),
    ] = None,
    sheet: Annotated[
        list[str] | None,
        typer.Option(help="Motions to keep frames of, for contact sheets (repeat); default: the first two."),
    ] = None,
    foundation: Annotated[str | None, typer.Option(help="Folder or id. Default: the embedded model.")] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Packs at once; default: one for each CPU core.", min=1)
    ] = None,
    pack: Annotated[
        int,
        typer.Option(
            help="Concepts trained in one forward; 1: each alone, which also tells its time.", min=1
        ),
    ] = 8,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Run nothing: report on the trials that OUT has.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Exit code 1 when ours misses the loose bounds that CI holds it to."),
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Does motion come apart from appearance? Trains every method on rendered motions that nothing was tuned on.

    Each trial renders its reference clips, trains one method from one seed, asks for appearances that share no colour,
    shape or background colour with the clips, and for the class of an object alone, and measures the videos. Results lie in
    OUT/trials, one file a table; started again, only what is missing runs.

      motiondirector study --quick --check             # minutes on two cores

      motiondirector study --captions class --method base --method coupled --method dual --seeds 2

      motiondirector study --out runs/study            # days on two cores
    """
    from models.load import load_foundation
    from motiondirector.progress import Bars
    from motiondirector.settings import parse_settings
    from motiondirector.study import report
    from motiondirector.study.check import bounds
    from motiondirector.study.methods import METHODS
    from motiondirector.study.plan import CAPTIONS, HELD_OUT, MAIN, SIDE_METHODS, TUNED, Plan
    from motiondirector.study.run import found, keys_of, run_plan
    from motiondirector.study.tables import gather
    from motiondirector.study.targets import targets
    from motiondirector.study.trial import has_sheet
    from motiondirector.study.videos import made_with
    from training.config import recommendation, resolve

    model = load_foundation(foundation)
    given = parse_settings(setting or [])
    dtype = resolve(
        given, model.recommended
    ).dtype  # what is wrong in the settings is said before anything runs
    if "dtype" in given:
        given["dtype"] = dtype  # results are kept under its one name
    # whole, so that a result is never taken for one of other recommendations
    one, many = (recommendation(model.recommended, clips) for clips in (1, 2))
    several = {name: value for name, value in many.items() if name not in given and one.get(name) != value}
    motions = tuple(motion or (TUNED if tuned else HELD_OUT)[: 2 if quick else None])
    plan = Plan(
        motions=motions,
        references=tuple(references or ((1,) if quick else (1, 4))),
        captions=tuple(captions or ((MAIN,) if quick else CAPTIONS)),  # type: ignore[arg-type]
        methods=tuple(method or (("base", "coupled", "dual") if quick else METHODS)),
        side_methods=tuple(method or SIDE_METHODS),
        seeds=tuple(range(1 if quick else seeds)),
        method_seeds=tuple(parse_seeds(method_seeds or []).items()),
        side_seeds=side_seeds,
        appearances=4 if quick else appearances,
        open_videos=8 if quick else open_videos,
        settings=tuple(sorted({**one, **given}.items())),
        several=tuple(sorted(several.items())),
        generation=tuple(made_with(model, dtype).items()),
        sheets=motions[:2] if sheet is None else tuple(sheet),
    )
    console = Console()
    if report_only:
        results = found(keys_of(plan, model.fingerprint), out)
    else:
        with Bars() as bars:

            def stepped(name: str, step: int, steps: int) -> None:
                pack_of = f"{name} and its pack"
                bars(pack_of, step, steps)
                if step >= steps:
                    bars.done(pack_of)

            bars("trials", 0, len(plan.trials()))
            results = run_plan(
                plan,
                out,
                fingerprint=model.fingerprint,
                foundation=foundation,
                jobs=jobs or os.cpu_count() or 1,
                pack=pack,
                on_done=lambda trial, done, total: bars("trials", done, total, trial.name),
                on_step=stepped,
            )
    if not results:
        raise UserError(
            f"{out / 'trials'} holds none of the {len(plan.trials())} results of this plan; leave out --report-only to "
            "run it, or give the folder, foundation and settings that results were made with."
        )
    if len(results) < len(plan.trials()):
        console.print(f"[yellow]{len(results)} of {len(plan.trials())} trials have a result[/]")
    outcomes = {
        str(of): gather((trial, result) for trial, result in results.items() if trial.captions == of)
        for of in plan.captions
        if any(trial.captions == of for trial in results)
    }
    reached = targets(outcomes)
    facts = {
        "foundation": {"name": model.name, "fingerprint": model.fingerprint},
        "plan": {name: value for name, value in vars(plan).items() if name != "sheets"}
        | {name: dict(getattr(plan, name)) for name in ("settings", "several", "generation", "method_seeds")},
    }
    report.write_sheets(out, [trial for trial in results if has_sheet(trial, plan)])
    report.write(out, outcomes, len(plan.trials()), reached, facts)
    for of, outcome in outcomes.items():
        for count in outcome.references:
            for table in report.terminal(outcome, of, count):
                console.print(table)
    if reached:
        console.print(report.verdicts(reached))
    console.print(f"tables, sheets and every trial: {escape(str(out))}", highlight=False)
    if check:
        held = [bound for outcome in list(outcomes.values())[:1] for bound in bounds(outcome)]
        console.print(report.verdicts(held))
        if not held or not all(bound.met for bound in held):
            raise typer.Exit(NOT_DONE)


def parse_seeds(given: list[str]) -> dict[str, int]:
    """`full=3` -> {"full": 3}. Raises UserError for anything else; unknown methods are the plan's to refuse."""
    found = {}
    for text in given:
        name, equals, count = text.partition("=")
        if not equals or not count.strip().isdecimal() or int(count) < 1:
            raise UserError(
                f"--method-seeds {text!r}: expected METHOD=SEEDS, such as full=3, with at least 1 seed."
            )
        found[name.strip()] = int(count)
    return found
