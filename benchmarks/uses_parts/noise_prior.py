"""Noise prior: fidelity, leakage and diversity by the weight of the reference's inverted noise."""

from __future__ import annotations

from benchmarks.uses_parts.lab import Concept, Lab, Part
from benchmarks.uses_parts.use import Unit, Use, Values, cases_of, known, mean
from datasets.clip_sets.latents import latents_of
from models.generation import InvertedNoise
from models.inversion import invert
from motiondirector.study.trial import measure as measured

WEIGHTS = (0.0, 0.1, 0.3, 0.5)
FULL, OPEN = 6, 12  # videos of each kind of prompt
SHOWN = {
    "motion_fidelity": "fidelity",
    "appearance_accuracy": "looks right",
    "open_motion_fidelity": "fidelity, open prompts",
    "open_leakage": "leakage, open prompts",
    "open_diversity": "diversity, open prompts",
}


class NoisePrior(Use):
    def measure(self, lab: Lab, unit: Unit, concepts: list[Concept]) -> Values:
        """Values at each weight."""
        [concept] = concepts
        latents = latents_of(concept.reference.video_FHWC, lab.foundation, concept.recipe.name)["latents"]
        noise, full, free = invert(lab.foundation, latents), concept.full(FULL), concept.open(OPEN)
        base = cases_of(lab.videos(free), free, concept.recipe.clips)
        found = {}
        for weight in WEIGHTS:
            prior = InvertedNoise(weight=weight, noise_Cfhw=noise, source=concept.key) if weight else None
            made = [
                cases_of(lab.videos(of, Part(concept), noise_prior=prior), of, concept.recipe.clips)
                for of in (full, free)
            ]
            values = measured(*made, base)
            for metric, title in SHOWN.items():
                found[f"{title}, p {weight:g}"] = mean([known(value) for value in values[metric]])
        return found
