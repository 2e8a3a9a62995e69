"""The lesson: what the words of motion mean, taught from the simplest case up.

Among all motions, anywhere in the frame, the word "right" says a tenth of what there is to say at the highest noise, and a
small model does not find it in thousands of steps: what a word does must depend on which frame it is and where in the
frame, and none of the three helps before the other two do. Of one object on one background that always crosses the middle
it says everything, and is found within a hundred steps; what is found carries over to all appearances, all placements.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.sprites.motions import DIRECTIONS, KNOWN, SPEEDS, Motion
from datasets.sprites.world import Background, Scene, Sprite, sample_scene


@dataclass(frozen=True)
class Stage:
    """A part of the lesson. Every clip of it is a straight way through the middle of the frame, or rests there."""

    steps: int
    motions: tuple[str, ...]
    colours: tuple[str, ...]  # of a large circle; empty: any scene at all
    backgrounds: tuple[str, ...]
    paraphrases: bool
    noise_bias: float  # timestep = T * u ** noise_bias
    adverbs: bool = False  # slowly, quickly: each as often as neither


STAGES = (
    Stage(120, tuple(DIRECTIONS)[:4], ("red",), ("gray",), False, 0.12),
    Stage(100, tuple(DIRECTIONS), ("red", "white", "cyan", "black"), ("gray", "teal"), True, 0.12),
    Stage(120, (*DIRECTIONS, "still"), (), (), True, 0.35, adverbs=True),
)


def stage_at(step: int, stages: tuple[Stage, ...] = STAGES) -> Stage | None:
    """The stage of the lesson's own step number `step`, or None before and after it."""
    for stage in stages if step >= 0 else ():
        if step < stage.steps:
            return stage
        step -= stage.steps
    return None


def draw_lesson(stage: Stage, rng: np.random.Generator) -> tuple[Scene, Motion, str]:
    """A scene, a motion of the stage and its adverb."""
    motion = KNOWN[str(rng.choice(stage.motions))]
    adverb = str(rng.choice(list(SPEEDS))) if stage.adverbs and motion.speeds else ""
    if not stage.colours:
        return sample_scene(rng), motion, adverb
    sprite = Sprite("circle", str(rng.choice(stage.colours)), "plain", "large")
    return Scene(sprite, Background(str(rng.choice(stage.backgrounds)), "plain")), motion, adverb


class Middle(np.random.Generator):
    """A generator whose every fraction is a half: places a motion in the middle of the frame."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def random(self, *_args: object, **_more: object) -> float:  # type: ignore[override]
        return 0.5
