"""`motiondirector benchmark`: the paper's two sets, from a folder with their data to one table."""

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
    help="The paper's benchmark sets: train every concept of a set by each method and measure all of them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


def register(app: typer.Typer) -> None:
    """Add the command group."""
    app.add_typer(benchmark, name="benchmark")


def ucf_sports(
    data: Annotated[
        Path, typer.Option(help='Folder that holds "ucf action/Diving-Side/001/*.avi" and so on.')
    ],
    as_json: AsJson = False,
    config: ConfigFile = None,
    **settings: Any,
) -> None:
    """UCF Sports Action: several clips of an action are one concept.

    Unpack ucf_sports_actions.zip; its folders are found below --data:

      ucf_sports_actions/ucf action/Diving-Side/001/*.avi          13 actions, about 150 clips

    Each action is asked six prompts of the form "a panda is diving from a platform in a bamboo forest". The paper's own
    95 clips, 12 motions and 72 prompts are not published as lists: --only and --prompts take them where you have them.

      motiondirector benchmark ucf-sports --data /data/ucf --foundation /models/zeroscope_v2_576w --size 16x384x384

    Interrupted, the same command goes on. Results: one table, OUT/report.json, OUT/index.html with a page a concept.
    """
    run("ucf-sports", data, as_json, settings)


def loveu_tgve(
    data: Annotated[
        Path, typer.Option(help="Folder that holds LOVEU-TGVE-2023_Dataset.csv and the videos' folders.")
    ],
    as_json: AsJson = False,
    config: ConfigFile = None,
    **settings: Any,
) -> None:
    """LOVEU-TGVE-2023: every clip is a concept of its own.

    Unpack loveu-tgve-2023.zip; --data is its folder:

      LOVEU-TGVE-2023_Dataset.csv                            76 videos with a caption and four changed prompts each
      DAVIS_480p/480p_videos/*.mp4   youtube_480p/480p_videos/*.mp4   videvo_480p/480p_videos/*.mp4

    That makes 304 prompts. The paper asks 532, three more of each video, which are not published: give them (or your
    own) with --prompts.

      motiondirector benchmark loveu-tgve --data /data/loveu-tgve-2023 --foundation /models/zeroscope_v2_576w \\
          --size 16x384x384 --train-steps 150

    Interrupted, the same command goes on. Results: one table, OUT/report.json, OUT/index.html with a page a concept.
    """
    run("loveu-tgve", data, as_json, settings)


def run(name: str, data: Path, as_json: bool, settings: dict[str, Any]) -> None:
    """What both commands do once the set is named."""
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
    console.print(f"look at [bold]{escape(str(out / PAGE))}[/]", highlight=False, soft_wrap=True)


add_command(benchmark, "ucf-sports", ucf_sports, BenchmarkConfig)
add_command(benchmark, "loveu-tgve", loveu_tgve, BenchmarkConfig)
