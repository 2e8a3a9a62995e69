"""`motiondirector benchmark`: runs the paper's two benchmark sets from a folder with their data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from infra.setting import configured
from motiondirector.cli import ConfigFile
from motiondirector.commands.concepts import AsJson
from motiondirector.judging.config import BenchmarkConfig
from motiondirector.options import add_command
from motiondirector.output import print_json

benchmark = typer.Typer(
    help="The paper's benchmark sets: train every concept of a set with each method and measure the results.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


def register(app: typer.Typer) -> None:
    """Add the command group."""
    app.add_typer(benchmark, name="benchmark")


def ucf_sports(
    data: Annotated[
        Path, typer.Option(help='Folder that contains "ucf action/Diving-Side/001/*.avi" and so on.')
    ],
    as_json: AsJson = False,
    config: ConfigFile = None,
    **settings: Any,
) -> None:
    """UCF Sports Action: several clips of an action are one concept.

    Unpack ucf_sports_actions.zip and give its folder with --data:

      ucf_sports_actions/ucf action/Diving-Side/001/*.avi          13 actions, about 150 clips

    Each action has six prompts such as "a panda is diving from a platform in a bamboo forest". The paper's own 95
    clips, 12 motions and 72 prompts are not published as lists; if you have them, use --only and --prompts.

      motiondirector benchmark ucf-sports --data /data/ucf --foundation /models/zeroscope_v2_576w --size 16x384x384

    An interrupted run continues with the same command. Results: a table, OUT/report.json, and OUT/index.html with a page
    per concept.
    """
    run("ucf-sports", data, as_json, settings)


def loveu_tgve(
    data: Annotated[
        Path, typer.Option(help="Folder that contains LOVEU-TGVE-2023_Dataset.csv and the videos' folders.")
    ],
    as_json: AsJson = False,
    config: ConfigFile = None,
    **settings: Any,
) -> None:
    """LOVEU-TGVE-2023: every clip is a separate concept.

    Unpack loveu-tgve-2023.zip and give its folder with --data:

      LOVEU-TGVE-2023_Dataset.csv                            76 videos with a caption and four changed prompts each
      DAVIS_480p/480p_videos/*.mp4   youtube_480p/480p_videos/*.mp4   videvo_480p/480p_videos/*.mp4

    These are 304 prompts. The paper uses 532, three more per video, which are not published; add them (or your own)
    with --prompts.

      motiondirector benchmark loveu-tgve --data /data/loveu-tgve-2023 --foundation /models/zeroscope_v2_576w \\
          --size 16x384x384 --train-steps 150

    An interrupted run continues with the same command. Results: a table, OUT/report.json, and OUT/index.html with a page
    per concept.
    """
    run("loveu-tgve", data, as_json, settings)


def run(name: str, data: Path, as_json: bool, settings: dict[str, Any]) -> None:
    """Run a set; both commands call this."""
    chosen = configured(BenchmarkConfig, settings)
    from motiondirector.judging.benchmark import benchmark as benchmarked
    from motiondirector.judging.judge import PAGE, score_table
    from motiondirector.progress import Bars

    with Bars() as bars:
        report, out = benchmarked(name, data, chosen, bars=bars)
    if as_json:
        print_json(report)
        return
    console = Console()
    console.print(score_table(report, f"{report['title']}, {report['prompts']} prompts"))
    console.print(f"mean ± {report['interval']}; the best is bold", style="dim", highlight=False)
    if report["notes"]:
        console.print(f"{len(report['notes'])} notes on what was missing or left out: above and on the page")
    console.print(f"results: [bold]{escape(str(out / PAGE))}[/]", highlight=False, soft_wrap=True)


add_command(benchmark, "ucf-sports", ucf_sports, BenchmarkConfig)
add_command(benchmark, "loveu-tgve", loveu_tgve, BenchmarkConfig)
