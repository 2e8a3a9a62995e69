"""The curriculum that teaches the meaning of motion words, from the simplest case up.

Among all motions and positions, the word "right" explains only a tenth of what is to predict at the
highest noise, and a small model does not learn it in thousands of steps: a word's effect depends on the
frame number and on the position in the frame, and none of the three helps without the other two. If one
object on one background always crosses the middle, the word explains everything and is learned within a
hundred steps. This then transfers to all appearances and positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.sprites.motions import DIRECTIONS, KNOWN, SPEEDS, Motion
from datasets.sprites.world import Background, Scene, Sprite, sample_scene


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum. Every clip moves straight through the middle of the frame, or rests there."""

    steps: int
    motions: tuple[str, ...]
    colours: tuple[str, ...]  # of a large circle; empty: any scene
    backgrounds: tuple[str, ...]
    paraphrases: bool
    noise_bias: float  # timestep = T * u ** noise_bias
    adverbs: bool = False  # slowly, quickly or none, equally often


STAGES = (
    Stage(120, tuple(DIRECTIONS)[:4], ("red",), ("gray",), False, 0.12),
    Stage(100, tuple(DIRECTIONS), ("red", "white", "cyan", "black"), ("gray", "teal"), True, 0.12),
    Stage(120, (*DIRECTIONS, "still"), (), (), True, 0.35, adverbs=True),
)


def stage_at(step: int, stages: tuple[Stage, ...] = STAGES) -> Stage | None:
    """The stage at step `step`, counted from the curriculum's start; None before and after it."""
    for stage in stages if step >= 0 else ():
        if step < stage.steps:
            return stage
        step -= stage.steps
    return None


def draw_stage(stage: Stage, rng: np.random.Generator) -> tuple[Scene, Motion, str]:
    """Draw a scene, a motion of the stage and its adverb."""
    motion = KNOWN[str(rng.choice(stage.motions))]
    adverb = str(rng.choice(list(SPEEDS))) if stage.adverbs and motion.speeds else ""
    if not stage.colours:
        return sample_scene(rng), motion, adverb
    sprite = Sprite("circle", str(rng.choice(stage.colours)), "plain", "large")
    return Scene(sprite, Background(str(rng.choice(stage.backgrounds)), "plain")), motion, adverb


class Middle(np.random.Generator):
    """A generator that always returns 0.5, which places a motion in the middle of the frame."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def random(self, *_args: object, **_more: object) -> float:  # type: ignore[override]
        return 0.5
