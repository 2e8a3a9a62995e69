"""The plan of a study: motions, reference clips, captions, methods and seeds.

Motions are split: settings were chosen on TUNED, results are reported only on HELD_OUT. `looks.py`
makes the clips and prompts of each trial.
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
REFERENCES = (1, 4)  # number of reference clips of a concept: single clip, several clips
# Kinds of captions of the reference clips, with one table each. The main table has the first: how
# people write them.
CAPTIONS: tuple[Captions, ...] = get_args(Captions)
MAIN = CAPTIONS[0]
# Methods of the other tables: enough to tell whether captions matter.
SIDE_METHODS = ("base", "coupled", "motiondirector", "dual")
SIDE_SEEDS = 2
# Increase it when code changes a trial's result for the same inputs: its training, generation or metrics.
EDITION = 3


@dataclass(frozen=True)
class Trial:
    """One concept trained with one method and seed, and evaluated."""

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
        methods: of the main table; the other tables have those that are also in `side_methods`.
        seeds: training seeds, also used for the reference clips' looks and the noise.
        method_seeds: largest number of seeds per method; overrides `METHODS`.
        side_seeds: largest number of seeds in tables with other captions than MAIN.
        appearances: number of full prompts of each trial, which name every look.
        open_videos: number of videos of each trial from open prompts, which name only the subject's class.
        settings: training settings, including the foundation's.
        several: settings that override them for trials with more than one reference clip.
        generation: how videos are made (`videos.made_with`).
        sheets: motions whose frames are kept for contact sheets.
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
        ):  # drop duplicates
            object.__setattr__(self, name, tuple(dict.fromkeys(getattr(self, name))))
        for given, known, what in (
            (self.motions, tuple(NOVEL), "novel motion"),
            (self.methods, tuple(METHODS), "method of the study"),
            (tuple(dict(self.method_seeds)), tuple(METHODS), "method of the study"),
            (self.captions, CAPTIONS, "kind of captions"),
        ):
            unknown = [name for name in given if name not in known]
            if unknown:
                raise UserError(f"no {what} is called {unknown[0]!r}; choose from {', '.join(known)}.")
        if not all(1 <= count <= 6 for count in self.references):
            raise UserError(f"reference clips {self.references}: expected 1 to 6 per concept.")

    def seeds_of(self, captions: Captions, method: str) -> tuple[int, ...]:
        """The seeds of a method in the table for these captions."""
        most = [
            len(self.seeds),
            dict(self.method_seeds).get(method, METHODS[method].seeds or len(self.seeds)),
        ]
        if captions != MAIN:
            most.append(self.side_seeds)
        return self.seeds[: min(most)]

    def trials(self) -> list[Trial]:
        """All trials by table, then by seed, so that a stopped study has complete comparisons."""
        return [
            Trial(motion, count, method, seed, captions)
            for captions, seed, count, method, motion in product(
                self.captions, self.seeds, self.references, self.methods, self.motions
            )
            if seed in self.seeds_of(captions, method)
            and (captions == MAIN or len(self.captions) == 1 or method in self.side_methods)
        ]


def settings_of(plan: Plan, trial: Trial) -> dict[str, Any]:
    """The training settings of a trial, without those that its method ignores; empty for the base model."""
    from training.methods import suited_to

    own: Mapping[str, Any] | None = training_settings(trial.method)
    if own is None:
        return {}
    several = dict(plan.several) if trial.references > 1 else {}
    return {**suited_to(own.get("method"), {**dict(plan.settings), **several}), **own}


def trial_key(plan: Plan, trial: Trial, fingerprint: str) -> str:
    """A hash over everything that a trial's result depends on: a result with this key can be reused.

    It includes the reference clips' pixels, captions and prompts, so a change of the sprite world
    changes the key.
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
