"""`motiondirector benchmark`: the paper's two sets, from a folder with their data to one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from infra.errors import UserError
from motiondirector.cli import ConfigFile
from motiondirector.commands.concepts import AsJson
from motiondirector.evaluation_options import (
    Against,
    Batch,
    ClipWeights,
    Device,
    Guidance,
    PickWeights,
    Scale,
    Seeds,
    Steps,
)
from motiondirector.output import print_json
from motiondirector.settings import parse_settings

benchmark = typer.Typer(
    help="The paper's benchmark sets: train every concept of a set by each method and measure all of them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Only = Annotated[
    list[str] | None,
    typer.Option(help="This concept alone, as the set calls it (repeat). Absent: all.", show_default=False),
]
Foundation = Annotated[
    str | None, typer.Option(help="Folder or hub id.", show_default="the embedded sprite model")
]
TrainSteps = Annotated[
    int | None,
    typer.Option(
        help="Training steps of each concept and method. Absent: the foundation's recommendation.", min=1
    ),
]
Setting = Annotated[
    list[str] | None,
    typer.Option(
        help="NAME=VALUE of another training setting, such as rank=32 (repeat; `motiondirector train --help`).",
        show_default=False,
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        help="FRAMESxHEIGHTxWIDTH of clips and videos, such as 16x384x384. Absent: the foundation's.",
        show_default=False,
    ),
]
Fps = Annotated[
    float | None,
    typer.Option(
        help="Frames a second of the clips; 0: the source's own. Absent: the foundation's.",
        min=0,
        show_default=False,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="fp32|bf16",
        help="Precision of the model; adapters are trained in it, too. Absent: bf16 on a GPU, fp32 on a CPU.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    app.add_typer(benchmark, name="benchmark")


@benchmark.command("ucf-sports")
def ucf_sports(
    data: Annotated[
        Path, typer.Option(help='Folder that holds "ucf action/Diving-Side/001/*.avi" and so on.')
    ],
    out: Annotated[Path, typer.Option(help="Folder of everything the run makes.")] = Path(
        "runs/benchmark/ucf-sports"
    ),
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Prompts in place of the built-in ones: .csv, .tsv or .jsonl with `prompt` and `concept` (the action's "
            "folder); without `concept`, asked of every action.",
            show_default=False,
        ),
    ] = None,
    only: Only = None,
    against: Against = "base,coupled",
    foundation: Foundation = None,
    seeds: Seeds = 1,
    train_steps: TrainSteps = None,
    setting: Setting = None,
    size: Size = None,
    fps: Fps = None,
    clip: ClipWeights = None,
    pickscore: PickWeights = None,
    scale: Scale = 1.0,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    batch: Batch = 4,
    device: Device = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """UCF Sports Action: several clips of an action are one concept.

    Unpack ucf_sports_actions.zip; its folders are found below --data:

      ucf_sports_actions/ucf action/Diving-Side/001/*.avi          13 actions, about 150 clips

    Each action is asked six prompts of the form "a panda is diving from a platform in a bamboo forest". The paper's own
    95 clips, 12 motions and 72 prompts are not published as lists: --only and --prompts take them where you have them.

      motiondirector benchmark ucf-sports --data /data/ucf --foundation /models/zeroscope_v2_576w --size 16x384x384

    Interrupted, the same command goes on. Results: one table, OUT/report.json, OUT/index.html with a page a concept.
    """
    run("ucf-sports", **locals())


@benchmark.command("loveu-tgve")
def loveu_tgve(
    data: Annotated[
        Path, typer.Option(help="Folder that holds LOVEU-TGVE-2023_Dataset.csv and the videos' folders.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of everything the run makes.")] = Path(
        "runs/benchmark/loveu-tgve"
    ),
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="More prompts beside the table's four a video: .csv, .tsv or .jsonl with `prompt` and `concept` (the video's "
            "name); without `concept`, asked of every video.",
            show_default=False,
        ),
    ] = None,
    only: Only = None,
    against: Against = "base,coupled",
    foundation: Foundation = None,
    seeds: Seeds = 1,
    train_steps: TrainSteps = None,
    setting: Setting = None,
    size: Size = None,
    fps: Fps = None,
    clip: ClipWeights = None,
    pickscore: PickWeights = None,
    scale: Scale = 1.0,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    batch: Batch = 4,
    device: Device = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
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
    run("loveu-tgve", **locals())


def run(
    name: str,
    *,
    data: Path,
    out: Path,
    prompts: Path | None,
    only: list[str] | None,
    against: str,
    foundation: str | None,
    seeds: int,
    train_steps: int | None,
    setting: list[str] | None,
    size: str | None,
    fps: float | None,
    clip: str | None,
    pickscore: str | None,
    scale: float,
    steps: int | None,
    guidance_scale: float | None,
    batch: int,
    device: str | None,
    dtype: str | None,
    as_json: bool,
    config: Path | None,
) -> None:
    """What both commands do once the set is named."""
    from evaluation.evaluate import Generation
    from evaluation.paper_sets import SETS
    from evaluation.prompts import read_prompts
    from models.foundation import Bucket
    from models.generation import AdapterSettings, GenerationSettings
    from models.load import load_foundation
    from motiondirector.benchmark import Benchmark
    from motiondirector.contenders import check_trains, parse_against
    from motiondirector.judging import PAGE, Judge, score_table
    from motiondirector.progress import Bars

    names = parse_against(against)
    check_trains(dtype)
    settings = read_settings(setting or [], train_steps)
    paper_set = SETS[name](data, read_prompts(prompts) if prompts else None, only or ())
    bucket = None if size is None else Bucket.parse(size)
    model = load_foundation(foundation, device=device, dtype=dtype)
    model.check_bucket(bucket or model.defaults.bucket)
    rate = float(model.defaults.fps) if fps is None else fps or None
    judge = Judge(
        model,
        Generation(
            GenerationSettings(steps=steps, guidance_scale=guidance_scale),
            AdapterSettings(scale=scale),
            bucket,
            batch,
        ),
        tuple(range(1, seeds + 1)),
        clip=clip,
        pickscore=pickscore,
    )
    with Bars() as bars:
        told = Benchmark(paper_set, judge, names, settings, out, rate).run(bars)
    if as_json:
        print_json(told)
        return
    console = Console()
    console.print(score_table(told, f"{told['title']}, {told['prompts']} prompts"))
    console.print(f"mean ± {told['interval']}; the best is bold", style="dim", highlight=False)
    if told["notes"]:
        console.print(f"{len(told['notes'])} notes on what was missing or left out: above and on the page")
    console.print(f"look at [bold]{escape(str(out / PAGE))}[/]", highlight=False, soft_wrap=True)


def read_settings(given: list[str], train_steps: int | None) -> dict[str, Any]:
    """The settings that every concept is trained with. Raises UserError."""
    settings: dict[str, Any] = {} if train_steps is None else {"steps": train_steps}
    settings |= parse_settings(given)
    if "method" in settings:
        raise UserError("--setting method=...: the methods are those of --against, and ours.")
    return settings
