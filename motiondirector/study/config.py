"""The options of `motiondirector study`, as one configuration class."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from infra.errors import UserError
from infra.setting import setting
from motiondirector.settings import TrainingSettings

TRIALS = "Trials"
VIDEOS = "Videos"
RUNNING = "Running"


def parse_seeds(given: Any) -> Any:
    """`full=3` -> {"full": 3}. Raises UserError for anything else; the plan refuses unknown methods."""
    if isinstance(given, dict):
        return given
    found = {}
    for text in given:
        name, equals, count = text.partition("=")
        if not equals or not count.strip().isdecimal() or int(count) < 1:
            raise UserError(
                f"--method-seeds {text!r}: expected METHOD=SEEDS, such as full=3, with at least 1 seed."
            )
        found[name.strip()] = int(count)
    return found


class StudyConfig(BaseModel):
    """The trials of a study, and how they run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quick: bool = setting(
        False,
        TRIALS,
        "Run for a few minutes: only the main table, with two motions, one clip, one seed, base, coupled and ours.",
        option="--quick",
    )
    tuned: bool = setting(
        False,
        TRIALS,
        "Use the motions that settings may be tuned on, instead of the held-out ones.",
        option="--tuned",
    )
    motions: tuple[str, ...] = setting(
        (), TRIALS, "Novel motions (repeat); default: all held-out ones.", option="--motion"
    )
    methods: tuple[str, ...] = setting(
        (),
        TRIALS,
        "base, coupled, coupled-temporal, full, motiondirector, no-debias, debiased, dual (repeat). Default: all; for captions "
        "other than class, only those that show whether captions matter.",
        option="--method",
    )
    references: tuple[int, ...] = setting(
        (), TRIALS, "Reference clips of a concept (repeat); default: 1 and 4."
    )
    seeds: int = setting(5, TRIALS, "Training seeds of each method.", ge=1)
    method_seeds: Annotated[dict[str, int], BeforeValidator(parse_seeds)] = setting(
        {}, TRIALS, "METHOD=SEEDS of a method with fewer seeds (repeat). Default: full=3."
    )
    side_seeds: int = setting(2, TRIALS, "Seeds in the tables of captions other than class.", ge=1)
    captions: tuple[str, ...] = setting(
        (),
        TRIALS,
        "What the reference clips' captions say (repeat), one table each: class (only the subject's class), full (every look "
        "and a word for the motion), word (class and word), motion (only the word). Default: all.",
    )
    settings: TrainingSettings = setting(
        {}, TRIALS, "NAME=VALUE of a training setting, for every trial (repeat).", option="--setting"
    )
    foundation: str | None = setting(None, TRIALS, "Folder or id. Default: the embedded model.")

    appearances: int = setting(10, VIDEOS, "Videos of each trial from prompts that name every look.", ge=1)
    open_videos: int = setting(16, VIDEOS, "Videos of each trial from prompts that name only a class.", ge=0)
    sheets: tuple[str, ...] | None = setting(
        None,
        VIDEOS,
        "Motions to keep frames of, for contact sheets (repeat). Default: the first two.",
        option="--sheet",
    )

    jobs: int | None = setting(None, RUNNING, "Packs at once. Default: one per CPU core.", ge=1)
    pack: int = setting(
        8, RUNNING, "Concepts trained in one forward; 1: each alone, which also measures its time.", ge=1
    )
