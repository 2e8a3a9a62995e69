"""What the study runs: motions, reference clips, captions, methods and seeds.

Motions are split: settings were chosen on TUNED, results are reported on HELD_OUT only. What each trial shows and asks for is
`looks.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, get_args

from datasets.sprites.motions import NOVEL
from evaluation.store import key_of
from infra.errors import UserError
from motiondirector.study.looks import Captions, content_sha256
from motiondirector.study.methods import METHODS, training_settings

TUNED = ("orbit", "zigzag", "bounce", "swing", "loop")
HELD_OUT = tuple(name for name in NOVEL if name not in TUNED)
REFERENCES = (1, 4)  # reference clips of a concept: single clip, several clips
# What the reference clips' captions say; each is a table of its own. The first is how people write them: the main table.
CAPTIONS: tuple[Captions, ...] = get_args(Captions)
MAIN = CAPTIONS[0]
# Of the other tables: what tells whether captions matter.
SIDE_METHODS = ("base", "coupled", "motiondirector", "dual")
SIDE_SEEDS = 2
# Raised when code changes what a trial gives from the same inputs: its training, its generation or its metrics.
EDITION = 3


@dataclass(frozen=True)
class Trial:
    """One concept trained by one method from one seed, and judged."""

    motion: str
    references: int
    method: str
    seed: int
    captions: Captions = MAIN

    @property
    def concept(self) -> str:
        return f"{self.motion}-{self.references}"

    @property
    def name(self) -> str:
        return f"{self.motion}-{self.references}clip-{self.captions}-{self.method}-seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """A whole study.

    Args:
        methods: of the main table; of the others those among them that `side_methods` names.
        seeds: training seeds, which are those of the reference clips' looks and of the noise too.
        method_seeds: most seeds of a method, over what `METHODS` says.
        side_seeds: most seeds in tables of other captions than MAIN.
        appearances: full prompts of each trial, which name every look.
        open_videos: videos of each trial from open prompts, which name the subject's class alone.
        settings: training settings, the foundation's own included.
        several: those over them of trials with more than one reference clip.
        generation: how videos are made (`videos.made_with`).
        sheets: motions of which frames are kept, for contact sheets.
    """

    motions: tuple[str, ...] = HELD_OUT
    references: tuple[int, ...] = REFERENCES
    captions: tuple[Captions, ...] = CAPTIONS
    methods: tuple[str, ...] = tuple(METHODS)
    side_methods: tuple[str, ...] = SIDE_METHODS
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    method_seeds: tuple[tuple[str, int], ...] = ()
    side_seeds: int = SIDE_SEEDS
    appearances: int = 10
    open_videos: int = 16
    settings: tuple[tuple[str, Any], ...] = ()
    several: tuple[tuple[str, Any], ...] = ()
    generation: tuple[tuple[str, Any], ...] = (("dtype", "fp32"),)
    sheets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (
            "motions",
            "references",
            "captions",
            "methods",
            "seeds",
        ):  # named twice is asked for once
            object.__setattr__(self, name, tuple(dict.fromkeys(getattr(self, name))))
        for given, known, what in (
            (self.motions, tuple(NOVEL), "novel motion"),
            (self.methods, tuple(METHODS), "method of the study"),
            (tuple(dict(self.method_seeds)), tuple(METHODS), "method of the study"),
            (self.captions, CAPTIONS, "kind of captions"),
        ):
            unknown = [name for name in given if name not in known]
            if unknown:
                raise UserError(f"no {what} is called {unknown[0]!r}; choose among {', '.join(known)}.")
        if not all(1 <= count <= 6 for count in self.references):
            raise UserError(f"reference clips {self.references}: expected 1 to 6 of each concept.")

    def seeds_of(self, captions: Captions, method: str) -> tuple[int, ...]:
        """The seeds of a method in the table of these captions."""
        most = [
            len(self.seeds),
            dict(self.method_seeds).get(method, METHODS[method].seeds or len(self.seeds)),
        ]
        if captions != MAIN:
            most.append(self.side_seeds)
        return self.seeds[: min(most)]

    def trials(self) -> list[Trial]:
        """Every trial: table by table, a whole comparison of each seed first."""
        return [
            Trial(motion, count, method, seed, captions)
            for captions, seed, count, method, motion in product(
                self.captions, self.seeds, self.references, self.methods, self.motions
            )
            if seed in self.seeds_of(captions, method)
            and (captions == MAIN or len(self.captions) == 1 or method in self.side_methods)
        ]


def settings_of(plan: Plan, trial: Trial) -> dict[str, Any]:
    """The training settings of a trial, as far as they mean something for its method; none for the base model."""
    from training.config import suited_to

    own: Mapping[str, Any] | None = training_settings(trial.method)
    if own is None:
        return {}
    several = dict(plan.several) if trial.references > 1 else {}
    return {**suited_to(own.get("method"), {**dict(plan.settings), **several}), **own}


def trial_key(plan: Plan, trial: Trial, fingerprint: str) -> str:
    """A hash over all that a trial's result depends on: a result under this key need not be computed again.

    The reference clips' pixels, captions and prompts are in it, so that a result never outlives a change of the world.
    """
    return key_of(
        edition=EDITION,
        trial=asdict(trial),
        paths=METHODS[trial.method].paths,
        settings=settings_of(plan, trial),
        foundation=fingerprint,
        generation=dict(plan.generation),
        content=content_sha256(
            trial.motion, trial.references, trial.seed, trial.captions, plan.appearances, plan.open_videos
        ),
    )[:16]
