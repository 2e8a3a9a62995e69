"""The content of a trial: its reference clips, their captions, and the two kinds of prompts.

Full prompts name every look and share no colour, shape or background colour with a reference clip, so
that every leak is visible. Open prompts name only the subject's class, one that no reference clip
shows: the model or the adapter chooses the other looks. All methods get the same content; each seed has
different looks and noise.

Prompts contain the concept's word for the motion if the captions do; the base model does not know it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from datasets.sprites.captions import canonical
from datasets.sprites.motion_sources import motion_named
from datasets.sprites.motions import Motion
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
from evaluation.metrics.memo import content_key
from evaluation.metrics.sprite_tracking import shown, tracked
from evaluation.metrics.trajectories import positions, trajectory_agreement
from infra.errors import UserError

# class: only the subject's class ("a star"). full: every look and the motion's word. word: class and
# word ("a star hooks"). motion: only the word ("hooks").
Captions = Literal["class", "full", "word", "motion"]
ON_ITS_WAY = 0.998  # minimum agreement of the tracked path with the drawn one
DRAWS = 100  # attempts to draw a reference's looks that the tracker can read


@dataclass(frozen=True)
class Asked:
    """A prompt and the seed of its noise."""

    prompt: str
    seed: int


@lru_cache(maxsize=1024)
def references_of(motion: str, count: int, seed: int) -> tuple[tuple[Scene, np.ndarray], ...]:
    """The scenes of the reference clips and their frames [F, H, W, 3], 8 frames of 64x64.

    Shapes, colours and background colours all differ. Each scene is drawn again until the tracker finds
    the object on its path in every frame and reads its colours correctly. It does not see white on
    mint, for example, so it could not detect a leak of it.
    """
    rng = _generator("references", motion, count, seed)
    found: list[tuple[Scene, np.ndarray]] = []
    for i in range(count):
        for _ in range(DRAWS):
            scene = Scene(
                Sprite(
                    _one(rng, SHAPES, {s.sprite.shape for s, _ in found}),
                    _one(rng, COLOURS, {s.sprite.colour for s, _ in found}),
                    str(rng.choice(TEXTURES)),
                ),
                Background(
                    _one(rng, BACKGROUND_COLOURS, {s.background.colour for s, _ in found}),
                    str(rng.choice(BACKGROUND_KINDS)),
                ),
            )
            frames = render_clip(scene, motion_named(motion), seed=seed * 1000 + i)
            if seen_as_it_is(scene, motion_named(motion), frames):
                break
        else:
            raise UserError(
                f"the tracker can read none of {DRAWS} looks of {motion!r}: the motion leaves the frame, or is too fast."
            )
        found.append((scene, frames))
    return tuple(found)


def seen_as_it_is(scene: Scene, motion: Motion, frames_FHWC: np.ndarray) -> bool:
    """Whether the tracker finds the object in every frame at its place and reads its looks correctly."""
    measured = shown(frames_FHWC)
    drawn = {
        "colour": scene.sprite.colour,
        "texture": scene.sprite.texture,
        "background": scene.background.colour,
        "background_kind": scene.background.kind,
    }
    if not tracked(frames_FHWC).present or any(measured[look] != word for look, word in drawn.items()):
        return False
    x, y, _ = motion.trajectory(len(frames_FHWC), np.random.default_rng(0), scene.sprite.radius).on_screen()
    return trajectory_agreement(positions(frames_FHWC), np.stack([x, y], axis=1)) >= ON_ITS_WAY


def reference_scenes(motion: str, count: int, seed: int) -> list[Scene]:
    """The appearances of the reference clips."""
    return [scene for scene, _ in references_of(motion, count, seed)]


def caption_of(scene: Scene, motion: Motion, captions: Captions) -> str:
    """The caption of a reference clip."""
    of_class = class_of(scene.sprite.shape)
    return {
        "class": of_class,
        "full": canonical(scene, motion),
        "word": f"{of_class} {motion.phrases[0]}",
        "motion": motion.phrases[0],
    }[captions]


def class_of(shape: str) -> str:
    """The subject's class in words: "a star"."""
    return f"{'an' if shape[0] in 'aeiou' else 'a'} {shape}"


def reference_clips(motion: str, count: int, seed: int, captions: Captions) -> list[Reference]:
    """The clips that the motion is learned from, with their captions."""
    return [
        Reference(frames, caption_of(scene, motion_named(motion), captions))
        for scene, frames in references_of(motion, count, seed)
    ]


def asked_scenes(motion: str, references: int, seed: int, count: int) -> list[Scene]:
    """Appearances for prompts, with none of the reference clips' colours, shapes and background colours."""
    scenes = reference_scenes(motion, references, seed)
    rng = _generator("asked", motion, references, seed)

    def left(words: Iterable[str], used: set[str]) -> list[str]:
        return [str(w) for w in rng.permutation([w for w in words if w not in used])]

    shapes = left(SHAPES, {s.sprite.shape for s in scenes})
    colours = left(COLOURS, {s.sprite.colour for s in scenes})
    behind = left(BACKGROUND_COLOURS, {s.background.colour for s in scenes})
    return [
        Scene(
            Sprite(shapes[i % len(shapes)], colours[i % len(colours)], str(rng.choice(TEXTURES))),
            Background(behind[(i + i // len(behind)) % len(behind)], str(rng.choice(BACKGROUND_KINDS))),
        )
        for i in range(count)
    ]


def full_prompts(motion: str, references: int, seed: int, captions: Captions, count: int) -> list[Asked]:
    """Prompts that name every look, for one video each."""
    word = None if captions == "class" else motion_named(motion)
    scenes = asked_scenes(motion, references, seed, count)
    return [Asked(canonical(scene, word), seed * 100_000 + i) for i, scene in enumerate(scenes)]


def open_prompts(motion: str, references: int, seed: int, captions: Captions, count: int) -> list[Asked]:
    """`count` prompts that name only a class, cycling through the unseen shapes.

    Their noise does not depend on the concept, so the base model's videos are made once for all motions.
    """
    used = {scene.sprite.shape for scene in reference_scenes(motion, references, seed)}
    classes = [(number, shape) for number, shape in enumerate(SHAPES) if shape not in used]
    word = "" if captions == "class" else f" {motion_named(motion).phrases[0]}"
    asked = []
    for i in range(count):
        number, shape = classes[i % len(classes)]
        noise = seed * 100_000 + 50_000 + 100 * (i // len(classes)) + number
        asked.append(Asked(class_of(shape) + word, noise))
    return asked


@lru_cache(maxsize=4096)
def content_sha256(
    motion: str, references: int, seed: int, captions: Captions, appearances: int, open_videos: int
) -> str:
    """One hash over the reference clips' pixels, their captions, and all prompts with their noise."""
    clips = reference_clips(motion, references, seed, captions)
    asked = [
        *full_prompts(motion, references, seed, captions, appearances),
        *open_prompts(motion, references, seed, captions, open_videos),
    ]
    content = [
        [(content_key(clip.video_FHWC), clip.caption) for clip in clips],
        [(one.prompt, one.seed) for one in asked],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _one(rng: np.random.Generator, words: Iterable[str], used: set[str]) -> str:
    return str(rng.choice([word for word in words if word not in used]))


def _generator(what: str, motion: str, references: int, seed: int) -> np.random.Generator:
    """A generator that trials of one concept and seed share, for all methods and captions."""
    content = json.dumps([what, motion, references, seed])
    return np.random.default_rng(int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big"))
