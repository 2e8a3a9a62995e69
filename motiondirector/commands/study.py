"""`motiondirector study`: the method's claim, measured: five methods, held-out motions and appearances, several seeds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from infra.errors import UserError
from motiondirector.cli import ConfigFile


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(study)


def study(
    out: Annotated[Path, typer.Option(help="Folder of the results; a study begun there goes on.")] = Path(
        "runs/study"
    ),
    quick: Annotated[
        bool, typer.Option(help="A few minutes: two motions, one seed, base, coupled and ours.")
    ] = False,
    tuned: Annotated[
        bool, typer.Option(help="On the motions that settings may be tuned on, instead of the held-out ones.")
    ] = False,
    motion: Annotated[
        list[str] | None, typer.Option(help="Novel motions (repeat); default: all held-out ones.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="base, coupled, no-debias, full, dual (repeat); default: all.")
    ] = None,
    references: Annotated[
        list[int] | None, typer.Option(help="Reference clips of a concept (repeat); default: 1 and 4.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of each trial.", min=1)] = 3,
    appearances: Annotated[int, typer.Option(help="Held-out appearances of each trial.", min=1)] = 10,
    setting: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE of a training setting, for every trial (repeat).")
    ] = None,
    captions: Annotated[
        str,
        typer.Option(
            help="What the reference clips' captions say: full (appearance and motion), or motion alone, so that the "
            "appearance has to be learned, and kept apart."
        ),
    ] = "full",
    foundation: Annotated[str | None, typer.Option(help="Folder or id. Default: the embedded model.")] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Packs at once; default: one for each CPU core.", min=1)
    ] = None,
    pack: Annotated[
        int,
        typer.Option(help="Motions trained in one forward; 1: each alone, which also tells its time.", min=1),
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
    shape or background colour with the clips, and measures the videos. Results lie in OUT/trials; started again, only
    what is missing runs.

      motiondirector study --quick --check             # minutes on two cores

      motiondirector study --out runs/study            # hours on two cores
    """
    from models.load import load_foundation
    from motiondirector.progress import Bars
    from motiondirector.settings import parse_settings
    from motiondirector.study import report
    from motiondirector.study.check import bounds
    from motiondirector.study.plan import HELD_OUT, METHODS, TUNED, Plan
    from motiondirector.study.run import found, read_results, run_plan
    from motiondirector.study.tables import gather, targets
    from motiondirector.study.trial import made_with
    from training.config import recommendation, resolve

    model = load_foundation(foundation)
    given = parse_settings(setting or [])
    dtype = resolve(
        given, model.recommended
    ).dtype  # what is wrong in the settings is said before anything runs
    # whole, so that a result is never taken for one of other recommendations
    one, many = (recommendation(model.recommended, clips) for clips in (1, 2))
    several = {name: value for name, value in many.items() if name not in given and one.get(name) != value}
    plan = Plan(
        motions=tuple(motion or (TUNED if tuned else HELD_OUT)[: 2 if quick else None]),
        references=tuple(references or ((1,) if quick else (1, 4))),
        methods=tuple(method or (("base", "coupled", "dual") if quick else METHODS)),
        seeds=tuple(range(1 if quick else seeds)),
        appearances=4 if quick else appearances,
        settings=tuple(sorted({**one, **given}.items())),
        several=tuple(sorted(several.items())),
        captions=captions,
        generation=tuple(made_with(model, dtype).items()),
    )
    console = Console()
    if report_only:
        done = found(plan, out, model.fingerprint)
    else:
        with Bars() as bars:

            def stepped(name: str, step: int, steps: int) -> None:
                pack_of = f"{name} and its pack"
                bars(pack_of, step, steps)
                if step >= steps:
                    bars.done(pack_of)

            bars("trials", 0, len(plan.trials()))
            done = run_plan(
                plan,
                out,
                fingerprint=model.fingerprint,
                foundation=foundation,
                jobs=jobs or os.cpu_count() or 1,
                pack=pack,
                on_done=lambda trial, done, total: bars("trials", done, total, trial.name),
                on_step=stepped,
            )
    if not done:
        raise UserError(
            f"{out / 'trials'} holds none of the {len(plan.trials())} results of this plan; leave out --report-only to "
            "run it, or give the folder, foundation and settings that results were made with."
        )
    if len(done) < len(plan.trials()):
        console.print(f"[yellow]{len(done)} of {len(plan.trials())} trials have a result[/]")
    outcome = gather(read_results(done))
    reached = targets(outcome)
    facts = {
        "foundation": {"name": model.name, "fingerprint": model.fingerprint},
        "plan": {
            "motions": plan.motions,
            "references": plan.references,
            "methods": plan.methods,
            "seeds": plan.seeds,
            "appearances": plan.appearances,
            "settings": dict(plan.settings),
            "several": dict(plan.several),
            "captions": captions,
            "generation": dict(plan.generation),
        },
    }
    report.write(out, done, len(plan.trials()), outcome, reached, facts)
    for count in outcome.references:
        for table in report.terminal(outcome, count):
            console.print(table)
    console.print(report.verdicts(reached))
    console.print(f"tables, sheets and every trial: {escape(str(out))}", highlight=False)
    if check:
        held = bounds(outcome)
        console.print(report.verdicts(held))
        if not held or not all(bound.met for bound in held):
            raise typer.Exit(1)
