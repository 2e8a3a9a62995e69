"""Remix: the same motion, seed and noise with another prompt; the path stays and the appearance is the new prompt's."""

from __future__ import annotations

from benchmarks.uses_parts.lab import Concept, Lab, Part
from benchmarks.uses_parts.use import Target, Unit, Use, Values, cases_of, mean, right, share
from evaluation.metrics.trajectories import positions, trajectory_agreement
from motiondirector.study.looks import Asked

PROMPTS = 6


class Remix(Use):
    targets = {  # noqa: RUF012
        "path of the remix against the original": Target(0.9),
        "looks right, of the base's": Target(0.9),
    }

    def measure(self, lab: Lab, unit: Unit, concepts: list[Concept]) -> Values:
        """Each prompt's video is remixed with the next prompt."""
        [concept] = concepts
        asked = concept.full(PROMPTS)
        remixed = [Asked(asked[(i + 1) % len(asked)].prompt, one.seed) for i, one in enumerate(asked)]
        originals, remixes = (lab.videos(of, Part(concept)) for of in (asked, remixed))
        agreements = [
            trajectory_agreement(positions(before), positions(after))
            for before, after in zip(originals, remixes, strict=True)
        ]
        base = right(cases_of(lab.videos(remixed), remixed, concept.recipe.clips))
        return {
            "path of the remix against the original": mean(agreements),
            "looks right, of the base's": share(
                right(cases_of(remixes, remixed, concept.recipe.clips)), base
            ),
        }
