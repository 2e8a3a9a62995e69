"""Noise prior: fidelity, leakage and diversity by the weight of the reference's inverted noise."""

from __future__ import annotations

import numpy as np

from benchmarks.uses_parts.concepts import Concept, videos
from datasets.clip_sets.latents import latents_of
from models.foundations.base import Foundation
from models.generation import InvertedNoise
from models.inversion import invert
from motiondirector.study.trial import measure as measured

WEIGHTS = (0.0, 0.1, 0.3, 0.5)
FULL, OPEN = 6, 12  # videos of each kind of prompt
TARGETS: dict[str, float] = {}
SHOWN = {
    "motion_fidelity": "fidelity",
    "appearance_accuracy": "looks right",
    "open_motion_fidelity": "fidelity, open prompts",
    "open_leakage": "leakage, open prompts",
    "open_diversity": "diversity, open prompts",
}


def measure(foundation: Foundation, concept: Concept, slot: int) -> dict[str, float]:
    """Values for one concept at each weight."""
    latents = latents_of(concept.reference.video_FHWC, foundation, concept.motion)["latents"]
    noise, full, free = invert(foundation, latents), concept.full(FULL), concept.open(OPEN)
    base = concept.cases(videos(foundation, free), free)
    found = {}
    for weight in WEIGHTS:
        prior = InvertedNoise(weight=weight, noise_Cfhw=noise, source=concept.motion) if weight else None
        made = [
            concept.cases(videos(foundation, of, concept, slot, noise_prior=prior), of) for of in (full, free)
        ]
        values = measured(*made, base)
        for metric, title in SHOWN.items():
            known = [value for value in values[metric] if value is not None]
            found[f"{title}, p {weight:g}"] = float(np.mean(known)) if known else float("nan")
    return found
