"""`motiondirector evaluate`: compares a version's motion with the base model and baselines, as numbers and a page."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from infra.setting import configured
from motiondirector.cli import ConfigFile
from motiondirector.commands.concepts import DEFAULT_REGISTRY, AsJson, RegistryUri
from motiondirector.judging.config import EvaluationConfig
from motiondirector.options import add_command
from motiondirector.output import print_json


def register(app: typer.Typer) -> None:
    """Add the command, its settings taken from `EvaluationConfig`."""
    add_command(app, "evaluate", evaluate, EvaluationConfig)


def evaluate(
    concept: Annotated[str, typer.Option(help="NAME (its latest version) or NAME@VERSION.")],
    registry: RegistryUri = DEFAULT_REGISTRY,
    as_json: AsJson = False,
    config: ConfigFile = None,
    **settings: Any,
) -> None:
    """Measure a learned motion, with the same prompts and seeds for it, the base model and any baselines.

    It also uses open prompts, which name only the subject's class ("a heart"). They show how much more often than the
    base model it shows the clips' looks, and how much of the base model's variety is left.

    Results: a table (mean and 95 % interval of every metric), OUT/report.json, and OUT/index.html, one page with the
    videos side by side that needs no network. Baselines are trained with the version's own settings on the same clips.

    Videos and baselines are kept in OUT under a hash of all their inputs. So an interrupted run continues with the same
    command, and a second run with more prompts makes only the new videos.

      motiondirector evaluate --concept orbit

      motiondirector evaluate --concept orbit@2 --against base,coupled,no-debias,full --seeds 4

      motiondirector evaluate --concept car-turn --prompts prompts.txt --clip openai/clip-vit-large-patch14
    """
    chosen = configured(EvaluationConfig, settings)
    from motiondirector.judging.evaluate import evaluate as evaluated
    from motiondirector.judging.judge import score_table
    from motiondirector.progress import Bars

    with Bars() as bars:
        found = evaluated(concept, chosen, registry=registry, bars=bars)
    report, ref = found.report, found.version.ref
    if as_json:
        print_json({**report, "page": str(found.page)})
        return
    console = Console()
    many = f"{len(report['prompts'])} prompts, {chosen.seeds} seed{'s' if chosen.seeds > 1 else ''} each"
    console.print(score_table(report, f"{ref}: {many}"))
    console.print(f"mean ± {report['interval']}; the best is bold", style="dim", highlight=False)
    published = f"; published with {ref}" if chosen.publish else ""
    console.print(f"results: [bold]{escape(str(found.page))}[/]{published}", highlight=False, soft_wrap=True)
