"""The options of every command that measures videos: `evaluate`, `benchmark`, and what `train-batch` has of them."""

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

SEEDS = "Videos of each prompt, from the seeds 1, 2, ..."
AGAINST = (
    "Contenders beside ours, separated by commas: base (no adapter), and the baselines coupled, no-debias and "
    "full (temporal layers fine-tuned), which are trained here on the same clips."
)


def read_bucket(value: Any) -> Any:
    """`16x384x384` as a size."""
    return Bucket.parse(value) if isinstance(value, str) else value


class MetricWeights(BaseModel):
    """Weights of the metrics that need some."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clip: str | None = setting(
        None, METRICS, "CLIP weights (folder or hub id); adds text alignment and more by CLIP."
    )
    pickscore: str | None = setting(None, METRICS, "PickScore weights (folder or hub id); adds PickScore.")


class JudgeConfig(MetricWeights):
    """How contenders are judged: the videos that are made of each, and what is measured of them."""

    seeds: int = setting(2, VIDEOS, SEEDS, ge=1)
    scale: float = setting(
        1.0, VIDEOS, "How much of the adapters: 1 as trained.", ge=-MAX_SCALE, le=MAX_SCALE
    )
    steps: int | None = setting(None, VIDEOS, "Denoising steps. Absent: the foundation's.", ge=1)
    guidance_scale: float | None = setting(None, VIDEOS, "Absent: the foundation's.")
    batch: int = setting(4, VIDEOS, "Videos made at once.", ge=1)
    device: str | None = setting(None, VIDEOS, "cpu, cuda ... Absent: a GPU if there is one.")


class EvaluationConfig(JudgeConfig):
    """How a version is evaluated: the options of `motiondirector evaluate`."""

    prompts: Path | None = setting(
        None,
        PROMPTS,
        "A prompt a line, or .yaml, .jsonl, .csv, .tsv with `prompt` and, where it is for one alone, `concept`. Name "
        "appearances, not the motion: it should come from the adapter. Absent: held-out appearances, if the clips are sprites.",
    )
    open_prompts: Path | None = setting(
        None,
        PROMPTS,
        "Prompts that name the subject's class alone, in such a file: what looks the adapter adds by itself is measured of "
        "them, against the base model. Absent: the classes that the clips' captions name.",
    )
    against: str = setting("base", CONTENDERS, AGAINST)
    dtype: Dtype | None = setting(
        None,
        VIDEOS,
        "Precision of the model; fp16 only where no baseline is trained. Absent: bf16 on a GPU, fp32 on a CPU.",
        metavar="fp32|bf16|fp16",
    )
    data: str | None = setting(
        None,
        PLACES,
        "The clip set: references to compare with, and what baselines are trained on. Absent: what the version was trained on.",
    )
    foundation: str | None = setting(None, PLACES, "Folder or hub id. Absent: the version's own.")
    out: Path | None = setting(
        None, PLACES, "Folder of page, report, videos and baselines.", shown="runs/evaluate/NAME-N"
    )
    publish: bool = setting(
        True, PLACES, "Add the scores to the version in the registry; `concepts show` prints them."
    )


class BenchmarkConfig(JudgeConfig):
    """How the paper's sets are run: the options of `motiondirector benchmark`."""

    prompts: Path | None = setting(
        None,
        PROMPTS,
        "A .csv, .tsv or .jsonl file with `prompt` and `concept` (as the set calls it); without `concept`, asked of every "
        "concept. For ucf-sports in place of the built-in prompts, for loveu-tgve beside the table's four a video.",
    )
    only: tuple[str, ...] = setting(
        (), PROMPTS, "This concept alone, as the set calls it (repeat). Absent: all."
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
        "Precision of the model; adapters are trained in it, too. Absent: bf16 on a GPU, fp32 on a CPU.",
        metavar="fp32|bf16",
    )
    size: Annotated[Bucket, BeforeValidator(read_bucket)] | None = setting(
        None,
        VIDEOS,
        "FRAMESxHEIGHTxWIDTH of clips and videos, such as 16x384x384. Absent: the foundation's.",
        metavar="FxHxW",
    )
    fps: float | None = setting(
        None, VIDEOS, "Frames a second of the clips; 0: the source's own. Absent: the foundation's.", ge=0
    )
    foundation: str | None = setting(None, PLACES, "Folder or hub id.", shown="the embedded sprite model")
    out: Path | None = setting(
        None, PLACES, "Folder of everything the run makes.", shown="runs/benchmark/SET"
    )
