"""Mix: the appearance of one clip, learned from its frames, with the motion of another. Both at once.

The prompts name the class of the appearance's object, as its caption does; all its other looks must come from the adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.uses_parts.lab import CAPTIONS, Concept, Lab, Part, Recipe, appearance, motion
from benchmarks.uses_parts.use import Target, Unit, Use, Values, cases_of, fidelity, right, share
from datasets.sprites.captions import canonical
from datasets.sprites.world import Scene
from models.generation import APPEARANCE_SCALE
from motiondirector.study.looks import Asked, reference_clips, reference_scenes
from motiondirector.study.plan import HELD_OUT

PROMPTS = 8


@dataclass(frozen=True)
class Mixed:
    """Videos of a motion and an appearance together and of each alone, measured: of the motion, and of the looks."""

    motion: float
    motion_alone: float
    looks: float
    looks_alone: float
    looks_of_base: float


def mixed(lab: Lab, moving: Concept, look: Concept, scene: Scene) -> Mixed:
    """Make and measure the videos.

    Args:
        scene: the looks that `look` was learned from.
    """
    asked = [Asked(look.reference.caption, look.recipe.seed * 100_000 + i) for i in range(PROMPTS)]
    whole = [Asked(canonical(scene, None), one.seed) for one in asked]  # what the videos are compared with
    both, moved, still, base = (
        lab.videos(asked, *parts)
        for parts in ((Part(look, scale=APPEARANCE_SCALE), Part(moving)), (Part(moving),), (Part(look),), ())
    )

    def looks(videos: Sequence[np.ndarray]) -> float:
        return right(cases_of(videos, whole))

    return Mixed(
        fidelity(cases_of(both, asked, moving.recipe.clips)),
        fidelity(cases_of(moved, asked, moving.recipe.clips)),
        looks(both),
        looks(still),
        looks(base),
    )


class Mix(Use):
    targets = {  # noqa: RUF012
        "motion, of the motion's alone": Target(0.9),
        "looks, of the appearance's alone": Target(0.9),
    }

    def recipes(self, unit: Unit) -> list[Recipe]:
        [clip] = reference_clips(self.other(unit), 1, unit.seed, CAPTIONS)
        [name] = unit.motions
        return [motion(name, unit.seed), appearance(f"{self.other(unit)}-look", clip, unit.seed)]

    @staticmethod
    def other(unit: Unit) -> str:
        """The motion whose clip gives the appearance."""
        return HELD_OUT[(HELD_OUT.index(unit.motions[0]) + 1) % len(HELD_OUT)]

    def measure(self, lab: Lab, unit: Unit, concepts: list[Concept]) -> Values:
        [scene] = reference_scenes(self.other(unit), 1, unit.seed)
        found = mixed(lab, *concepts, scene)
        return {
            "motion, of the motion's alone": share(found.motion, found.motion_alone),
            "looks, of the appearance's alone": share(found.looks, found.looks_alone),
            "fidelity, mixed": found.motion,
            "fidelity, motion alone": found.motion_alone,
            "looks of the clip, mixed": found.looks,
            "looks of the clip, appearance alone": found.looks_alone,
            "looks of the clip, base model": found.looks_of_base,
        }
