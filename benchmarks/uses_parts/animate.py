"""Animate: a still image becomes an appearance, which a motion moves."""

from __future__ import annotations

import numpy as np

from benchmarks.uses_parts.lab import Concept, Lab, Recipe, appearance, motion
from benchmarks.uses_parts.mix import mixed
from benchmarks.uses_parts.use import Target, Unit, Use, Values, right, share
from datasets.sprites.captions import canonical
from datasets.sprites.world import Scene
from evaluation.metric import Case, Reference
from motiondirector.study.looks import class_of, references_of
from motiondirector.study.plan import HELD_OUT


class Animate(Use):
    targets = {  # noqa: RUF012
        "looks, of the image's own": Target(0.9),
        "motion, of the motion's alone": Target(0.85),
    }

    def recipes(self, unit: Unit) -> list[Recipe]:
        [name] = unit.motions
        image = image_of(unit)[1]
        return [motion(name, unit.seed), appearance(f"{name}-image", image, unit.seed)]

    def measure(self, lab: Lab, unit: Unit, concepts: list[Concept]) -> Values:
        scene, image = image_of(unit)
        found = mixed(lab, *concepts, scene)
        own = right([Case(image.video_FHWC, canonical(scene, None), 0)])
        return {
            "looks, of the image's own": share(found.looks, own),
            "motion, of the motion's alone": share(found.motion, found.motion_alone),
            "fidelity, animated": found.motion,
            "fidelity, motion alone": found.motion_alone,
            "looks of the image, animated": found.looks,
            "looks of the image, appearance alone": found.looks_alone,
            "looks of the image, base model": found.looks_of_base,
        }


def image_of(unit: Unit) -> tuple[Scene, Reference]:
    """The image of a unit: its scene, and the image as every frame of a clip, as `train --image` makes it."""
    number = unit.seed * len(HELD_OUT) + HELD_OUT.index(unit.motions[0])
    [(scene, frames_FHWC)] = references_of("still", 1, number)
    return scene, Reference(
        np.repeat(frames_FHWC[:1], len(frames_FHWC), axis=0), class_of(scene.sprite.shape)
    )
