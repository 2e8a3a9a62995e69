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
    """`full=3` -> {"full": 3}. Raises UserError for anything else; unknown methods are the plan's to refuse."""
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
    """What a study runs, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quick: bool = setting(
        False,
        TRIALS,
        "A few minutes: the main table of two motions, one clip, one seed, base, coupled and ours.",
        option="--quick",
    )
    tuned: bool = setting(
        False,
        TRIALS,
        "On the motions that settings may be tuned on, instead of the held-out ones.",
        option="--tuned",
    )
    motions: tuple[str, ...] = setting(
        (), TRIALS, "Novel motions (repeat); default: all held-out ones.", option="--motion"
    )
    methods: tuple[str, ...] = setting(
        (),
        TRIALS,
        "base, coupled, coupled-temporal, full, motiondirector, no-debias, debiased, dual (repeat); default: all, and in the "
        "tables of other captions than class those that tell whether captions matter.",
        option="--method",
    )
    references: tuple[int, ...] = setting(
        (), TRIALS, "Reference clips of a concept (repeat); default: 1 and 4."
    )
    seeds: int = setting(5, TRIALS, "Training seeds of each method.", ge=1)
    method_seeds: Annotated[dict[str, int], BeforeValidator(parse_seeds)] = setting(
        {}, TRIALS, "METHOD=SEEDS of one that is to have fewer (repeat). Default: full=3."
    )
    side_seeds: int = setting(2, TRIALS, "Seeds in the tables of other captions than class.", ge=1)
    captions: tuple[str, ...] = setting(
        (),
        TRIALS,
        "What the reference clips' captions say (repeat), a table each: class (the subject's class alone), full (every look "
        "and a word for the motion), word (class and word), motion (the word alone). Default: all.",
    )
    settings: TrainingSettings = setting(
        {}, TRIALS, "NAME=VALUE of a training setting, for every trial (repeat).", option="--setting"
    )
    foundation: str | None = setting(None, TRIALS, "Folder or id. Default: the embedded model.")

    appearances: int = setting(10, VIDEOS, "Videos of each trial from prompts that name every look.", ge=1)
    open_videos: int = setting(16, VIDEOS, "Videos of each trial from prompts that name a class alone.", ge=0)
    sheets: tuple[str, ...] | None = setting(
        None,
        VIDEOS,
        "Motions to keep frames of, for contact sheets (repeat); default: the first two.",
        option="--sheet",
    )

    jobs: int | None = setting(None, RUNNING, "Packs at once; default: one for each CPU core.", ge=1)
    pack: int = setting(
        8, RUNNING, "Concepts trained in one forward; 1: each alone, which also tells its time.", ge=1
    )
