"""What the study runs: motions, reference clips, methods, seeds, and the held-out appearances each is judged on.

Motions are split: settings were chosen on TUNED, results are reported on HELD_OUT only. Appearances too: a video is asked
for in colours, shapes and backgrounds that none of its reference clips shows, so that every leak can be told.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from datasets.sprites.motions import NOVEL
from datasets.sprites.world import (
    BACKGROUND_COLOURS,
    BACKGROUND_KINDS,
    COLOURS,
    SHAPES,
    TEXTURES,
    Background,
    Scene,
    Sprite,
)
from evaluation.store import key_of
from infra.errors import UserError

TUNED = ("orbit", "zigzag", "bounce", "swing", "loop")
HELD_OUT = tuple(name for name in NOVEL if name not in TUNED)
METHODS = ("base", "coupled", "no-debias", "full", "dual")  # dual is ours
REFERENCES = (1, 4)  # reference clips of a concept: single clip, several clips
# What the reference clips' captions say: "full" names appearance and motion, "motion" the motion alone, so that what the clip
# looks like is something that training has to put somewhere.
CAPTIONS = ("full", "motion")
# How videos are made unless a plan says otherwise, and how those of docs/study were: a key names only what differs.
GENERATION: dict[str, Any] = {
    "num_inference_steps": 12,
    "guidance_scale": 4.0,
    "scale": 1.0,
    "size": "8x64x64",
    "negative_prompt": "",
    "dtype": "fp32",
}


@dataclass(frozen=True)
class Trial:
    """One concept trained by one method from one seed, and judged."""

    motion: str
    references: int
    method: str
    seed: int

    @property
    def concept(self) -> str:
        return f"{self.motion}-{self.references}"

    @property
    def name(self) -> str:
        return f"{self.motion}-{self.references}clip-{self.method}-seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """A whole study.

    Args:
        settings: training settings, the foundation's own included.
        several: those over them of trials with more than one reference clip.
        generation: how videos are made (`trial.made_with`).
    """

    motions: tuple[str, ...] = HELD_OUT
    references: tuple[int, ...] = REFERENCES
    methods: tuple[str, ...] = METHODS
    seeds: tuple[int, ...] = (0, 1, 2)
    appearances: int = 10
    settings: tuple[tuple[str, Any], ...] = ()
    several: tuple[tuple[str, Any], ...] = ()
    captions: str = "full"
    generation: tuple[tuple[str, Any], ...] = tuple(GENERATION.items())

    def __post_init__(self) -> None:
        for name in ("motions", "references", "methods", "seeds"):  # named twice is asked for once
            object.__setattr__(self, name, tuple(dict.fromkeys(getattr(self, name))))
        for given, known, what in (
            (self.motions, tuple(NOVEL), "novel motion"),
            (self.methods, METHODS, "method of the study"),
            ((self.captions,), CAPTIONS, "kind of captions"),
        ):
            unknown = [name for name in given if name not in known]
            if unknown:
                raise UserError(f"no {what} is called {unknown[0]!r}; choose among {', '.join(known)}.")
        if not all(1 <= count <= 6 for count in self.references):
            raise UserError(f"reference clips {self.references}: expected 1 to 6 of each concept.")

    def trials(self) -> list[Trial]:
        """Every trial, a whole comparison of each seed first; the base model's seeds are only those of the noise."""
        return [
            Trial(motion, count, method, seed)
            for seed, count, method, motion in product(
                self.seeds, self.references, self.methods, self.motions
            )
        ]


def reference_scenes(trial: Trial) -> list[Scene]:
    """The appearances of the reference clips: the same for every method, others for every seed."""
    rng = _generator(trial, "references")
    shapes, colours, behind = (
        rng.permutation(list(words)) for words in (SHAPES, COLOURS, BACKGROUND_COLOURS)
    )
    return [
        Scene(
            Sprite(str(shapes[i]), str(colours[i]), str(rng.choice(TEXTURES))),
            Background(str(behind[i]), str(rng.choice(BACKGROUND_KINDS))),
        )
        for i in range(trial.references)
    ]


def asked_scenes(trial: Trial, count: int) -> list[Scene]:
    """Appearances to ask for: colour, shape and background colour are none of the reference clips'."""
    shown = reference_scenes(trial)
    rng = _generator(trial, "asked")

    def left(words: Iterable[str], used: set[str]) -> list[str]:
        return [str(w) for w in rng.permutation([w for w in words if w not in used])]

    shapes = left(SHAPES, {s.sprite.shape for s in shown})
    colours = left(COLOURS, {s.sprite.colour for s in shown})
    behind = left(BACKGROUND_COLOURS, {s.background.colour for s in shown})
    return [
        Scene(
            Sprite(shapes[i % len(shapes)], colours[i % len(colours)], str(rng.choice(TEXTURES))),
            Background(behind[(i + i // len(behind)) % len(behind)], str(rng.choice(BACKGROUND_KINDS))),
        )
        for i in range(count)
    ]


def _generator(trial: Trial, what: str) -> np.random.Generator:
    """Randomness that the trials of one concept and seed share, whatever the method."""
    told = json.dumps([what, trial.motion, trial.references, trial.seed])
    return np.random.default_rng(int.from_bytes(hashlib.sha256(told.encode()).digest()[:8], "big"))


def trial_key(plan: Plan, trial: Trial, settings: dict[str, Any], fingerprint: str) -> str:
    """A hash over all that a trial's result depends on: a result under this key need not be computed again.

    Args:
        settings: the plan's, as far as they mean something for this trial.
    """
    told: dict[str, Any] = {} if plan.captions == "full" else {"captions": plan.captions}
    other = {name: value for name, value in plan.generation if GENERATION.get(name) != value}
    told |= {"generation": other} if other else {}
    told |= {"trial": asdict(trial), "settings": settings, "foundation": fingerprint}
    return key_of(**told, appearances=plan.appearances)[:16]
