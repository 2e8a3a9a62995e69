"""References: how the motion and its leakage change with the number of clips, and with recoloured copies of one clip.

Clips have one motion in different looks. The sets are nested and all are asked the same prompts: the clips have half of the shapes
and colours, the prompts the other half. A copy is the first clip in other colours: a random rotation of colour space and a gamma.
All trainings have the steps that are recommended for one clip, so that the curve shows the clips alone; the use
`references-as-recommended` has those recommended for each number of clips, about three times as many for several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from benchmarks.uses_parts.lab import CAPTIONS, Concept, Lab, Part, Recipe
from benchmarks.uses_parts.use import Unit, Use, Values, cases_of, known, mean
from datasets.sprites.captions import canonical
from datasets.sprites.motion_sources import motion_named
from datasets.sprites.render import render_clip
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
from evaluation.metric import Reference
from infra.errors import UserError
from motiondirector.study.looks import DRAWS, Asked, caption_of, class_of, seen_as_it_is
from motiondirector.study.trial import measure as measured

COUNTS = (8, 4, 2, 1)
COPIES = 7  # recoloured copies beside one clip
TITLES = (*(f"{n} clip{'s' if n > 1 else ''}" for n in COUNTS), f"1 clip and {COPIES} copies")
FULL, OPEN = 6, 8  # videos of each kind of prompt
SHOWN = {
    "motion_fidelity": "fidelity",
    "appearance_accuracy": "looks right",
    "open_motion_fidelity": "fidelity, open prompts",
    "open_leakage": "leakage, open prompts",
}


class References(Use):
    """Args: recommended: train as recommended for the number of clips, and not always as for one."""

    trainings = len(TITLES)

    def __init__(self, recommended: bool = False) -> None:
        self.like = None if recommended else 1

    def recipes(self, unit: Unit) -> list[Recipe]:
        [name] = unit.motions
        clips = clips_of(name, unit.seed)
        copies = [recoloured(clips[0], np.random.default_rng([unit.seed, i])) for i in range(COPIES)]
        sets = [*(clips[:count] for count in COUNTS), (clips[0], *copies)]
        return [Recipe(name, tuple(of), unit.seed, like=self.like) for of in sets]

    def measure(self, lab: Lab, unit: Unit, concepts: list[Concept]) -> Values:
        full, free = asked_of(unit.motions[0], unit.seed)
        base, found = lab.videos(free), {}
        for title, concept in zip(TITLES, concepts, strict=True):
            clips = concept.recipe.clips
            if title == TITLES[-1]:
                clips = clips[:1]  # the copies have any colour, so each would match by chance
            made, opened, plain = (
                cases_of(videos, asked, clips)
                for videos, asked in (
                    (lab.videos(full, Part(concept)), full),
                    (lab.videos(free, Part(concept)), free),
                    (base, free),
                )
            )
            values = measured(made, opened, plain)
            for metric, shown in SHOWN.items():
                found[f"{shown}, {title}"] = mean([known(value) for value in values[metric]])
        return found


@dataclass(frozen=True)
class Words:
    """Looks to draw from. Those drawn least often come first."""

    shapes: tuple[str, ...]
    colours: tuple[str, ...]
    backgrounds: tuple[str, ...]

    def scene(self, rng: np.random.Generator, before: Sequence[Scene]) -> Scene:
        def fresh(words: Sequence[str], used: list[str]) -> str:
            fewest = min(map(used.count, words))
            return str(rng.choice([word for word in words if used.count(word) == fewest]))

        return Scene(
            Sprite(
                fresh(self.shapes, [one.sprite.shape for one in before]),
                fresh(self.colours, [one.sprite.colour for one in before]),
                str(rng.choice(TEXTURES)),
            ),
            Background(
                fresh(self.backgrounds, [one.background.colour for one in before]),
                str(rng.choice(BACKGROUND_KINDS)),
            ),
        )


def looks_of(rng: np.random.Generator) -> tuple[Words, Words]:
    """The looks of the clips and, without any of them, those of the prompts."""
    drawn = [
        [str(word) for word in rng.permutation(list(of))] for of in (SHAPES, COLOURS, BACKGROUND_COLOURS)
    ]
    halves = [(tuple(words[::2]), tuple(words[1::2])) for words in drawn]
    return Words(*(clips for clips, _ in halves)), Words(*(prompts for _, prompts in halves))


@lru_cache(maxsize=64)
def clips_of(name: str, seed: int) -> tuple[Reference, ...]:
    """The largest set of clips; the smaller ones are its beginnings. The tracker reads each correctly. Raises UserError."""
    rng, motion = _generator(name, seed), motion_named(name)
    words, _ = looks_of(rng)
    scenes: list[Scene] = []
    clips = []
    while len(clips) < max(COUNTS):
        for _ in range(DRAWS):
            scene = words.scene(rng, scenes)
            frames_FHWC = render_clip(scene, motion, seed=seed * 1000 + len(clips))
            if seen_as_it_is(scene, motion, frames_FHWC):
                break
        else:
            raise UserError(
                f"the tracker can read none of {DRAWS} looks of {name!r}; choose another --motion."
            )
        scenes.append(scene)
        clips.append(Reference(frames_FHWC, caption_of(scene, motion, CAPTIONS)))
    return tuple(clips)


def asked_of(name: str, seed: int) -> tuple[list[Asked], list[Asked]]:
    """Prompts that name every look, and prompts that name only a class; none has a look of a clip."""
    rng = _generator(name, seed)
    _, words = looks_of(rng)
    scenes: list[Scene] = []
    for _ in range(FULL):
        scenes.append(words.scene(rng, scenes))
    full = [Asked(canonical(scene, None), seed * 100_000 + i) for i, scene in enumerate(scenes)]
    free = [
        Asked(class_of(words.shapes[i % len(words.shapes)]), seed * 100_000 + 50_000 + i) for i in range(OPEN)
    ]
    return full, free


def recoloured(clip: Reference, rng: np.random.Generator) -> Reference:
    """The clip in other colours: a random rotation of colour space around gray, and a gamma."""
    turn, upper = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.diag(upper))  # so that every rotation is as likely
    turn[:, 0] *= np.linalg.det(turn)  # no reflection
    turned = (clip.video_FHWC / 255.0 - 0.5) @ turn + 0.5
    gamma = float(np.exp(rng.uniform(-0.5, 0.5)))
    return Reference(np.rint(np.clip(turned, 0, 1) ** gamma * 255).astype(np.uint8), clip.caption)


def _generator(name: str, seed: int) -> np.random.Generator:
    """The same for the clips and the prompts of a motion and seed."""
    return np.random.default_rng([seed, *name.encode()])
