"""The options of all commands that measure videos: `evaluate`, `benchmark`, and those that `train-batch` shares."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from infra.setting import setting
from models.dtypes import Dtype
from models.generation import MAX_SCALE
from models.sizes import Bucket
from motiondirector.settings import TrainingSettings

PROMPTS = "Prompts"
CONTENDERS = "Contenders"
VIDEOS = "Videos"
METRICS = "Metrics"
PLACES = "Places"

SEEDS = "Videos per prompt, with the seeds 1, 2, ..."
AGAINST = (
    "Contenders to compare ours with, separated by commas: base (no adapter), and the baselines coupled, no-debias and "
    "full (temporal layers fine-tuned), which are trained here on the same clips."
)


def read_bucket(value: Any) -> Any:
    """`16x384x384` as a size."""
    return Bucket.parse(value) if isinstance(value, str) else value


class MetricWeights(BaseModel):
    """Weights of the metrics that need them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clip: str | None = setting(
        None, METRICS, "CLIP weights (folder or hub id); adds text alignment and other CLIP metrics."
    )
    pickscore: str | None = setting(None, METRICS, "PickScore weights (folder or hub id); adds PickScore.")


class JudgeConfig(MetricWeights):
    """How contenders are judged: the videos to make, and the metrics."""

    seeds: int = setting(2, VIDEOS, SEEDS, ge=1)
    scale: float = setting(
        1.0, VIDEOS, "Strength of the adapters: 1 as trained.", ge=-MAX_SCALE, le=MAX_SCALE
    )
    steps: int | None = setting(None, VIDEOS, "Denoising steps. Absent: the foundation's.", ge=1)
    guidance_scale: float | None = setting(
        None, VIDEOS, "How closely to follow the prompt. Absent: the foundation's."
    )
    batch: int = setting(4, VIDEOS, "Videos generated in one forward.", ge=1)
    device: str | None = setting(None, VIDEOS, "cpu, cuda ... Absent: a GPU if there is one.")


class EvaluationConfig(JudgeConfig):
    """How a version is evaluated: the options of `motiondirector evaluate`."""

    prompts: Path | None = setting(
        None,
        PROMPTS,
        "File with one prompt per line, or .yaml, .jsonl, .csv, .tsv with `prompt` and, for a prompt of one concept, "
        "`concept`. Name appearances but not the motion, which should come from the adapter. Absent: held-out appearances, "
        "if the clips are sprites.",
    )
    open_prompts: Path | None = setting(
        None,
        PROMPTS,
        "File with prompts that name only the subject's class. They show which looks the adapter adds by itself, compared "
        "with the base model. Absent: the classes that the clips' captions name.",
    )
    against: str = setting("base", CONTENDERS, AGAINST)
    dtype: Dtype | None = setting(
        None,
        VIDEOS,
        "Precision of the model; fp16 only if no baseline is trained. Absent: bf16 on a GPU, fp32 on a CPU.",
        metavar="fp32|bf16|fp16",
    )
    data: str | None = setting(
        None,
        PLACES,
        "Clip set with the references, on which baselines are trained. Absent: the one that the version was trained on.",
    )
    foundation: str | None = setting(None, PLACES, "Folder or hub id. Absent: the version's own.")
    out: Path | None = setting(
        None, PLACES, "Folder for page, report, videos and baselines.", shown="runs/evaluate/NAME-N"
    )
    publish: bool = setting(
        True, PLACES, "Add the scores to the version in the registry; `concepts show` prints them."
    )


class BenchmarkConfig(JudgeConfig):
    """How the paper's sets are run: the options of `motiondirector benchmark`."""

    prompts: Path | None = setting(
        None,
        PROMPTS,
        "A .csv, .tsv or .jsonl file with `prompt` and `concept` (its name in the set). A prompt without `concept` is used "
        "for every concept. For ucf-sports, these replace the built-in prompts; for loveu-tgve, they are added to the table's "
        "four per video.",
    )
    only: tuple[str, ...] = setting(
        (), PROMPTS, "Run only this concept, by its name in the set (repeat). Absent: all."
    )
    against: str = setting("base,coupled", CONTENDERS, AGAINST)
    train_steps: int | None = setting(
        None,
        CONTENDERS,
        "Training steps of each concept and method. Absent: the foundation's recommendation.",
        ge=1,
    )
    settings: TrainingSettings = setting(
        {},
        CONTENDERS,
        "NAME=VALUE of another training setting, such as rank=32 (repeat; `motiondirector train --help`).",
        option="--setting",
    )
    seeds: int = setting(1, VIDEOS, SEEDS, ge=1)
    dtype: Dtype | None = setting(
        None,
        VIDEOS,
        "Precision of the model, also for training adapters. Absent: bf16 on a GPU, fp32 on a CPU.",
        metavar="fp32|bf16",
    )
    size: Annotated[Bucket, BeforeValidator(read_bucket)] | None = setting(
        None,
        VIDEOS,
        "FRAMESxHEIGHTxWIDTH of clips and videos, such as 16x384x384. Absent: the foundation's.",
        metavar="FxHxW",
    )
    fps: float | None = setting(
        None, VIDEOS, "Frames per second of the clips; 0: the source's own. Absent: the foundation's.", ge=0
    )
    foundation: str | None = setting(None, PLACES, "Folder or hub id.", shown="the embedded sprite model")
    out: Path | None = setting(None, PLACES, "Folder for all results of the run.", shown="runs/benchmark/SET")
