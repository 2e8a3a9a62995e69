"""Remix: the same motion, seed and noise with another prompt; the path stays and the appearance is the new prompt's."""

from __future__ import annotations

from benchmarks.uses_parts.concepts import Concept, videos
from evaluation.metrics.sprite_appearance import AppearanceAccuracy
from evaluation.metrics.trajectories import positions, trajectory_agreement
from models.foundations.base import Foundation
from motiondirector.study.looks import Asked

PROMPTS = 6
TARGETS = {"path of the remix against the original": 0.9, "looks right, of the base's": 0.9}


def measure(foundation: Foundation, concept: Concept, slot: int) -> dict[str, float]:
    """Values for one concept: each prompt's video is remixed with the next prompt."""
    asked = concept.full(PROMPTS)
    remixed = [Asked(asked[(i + 1) % len(asked)].prompt, one.seed) for i, one in enumerate(asked)]
    originals, remixes = (videos(foundation, of, concept, slot) for of in (asked, remixed))
    base = videos(foundation, remixed)
    agreements = [
        trajectory_agreement(positions(before), positions(after))
        for before, after in zip(originals, remixes, strict=True)
    ]
    right = AppearanceAccuracy()
    return {
        "path of the remix against the original": sum(agreements) / len(agreements),
        "looks right, of the base's": right(concept.cases(remixes, remixed)).mean
        / right(concept.cases(base, remixed)).mean,
    }
