"""The grammar of captions: a scene and a motion become words, words become a scene again.

`caption` draws one of the paraphrases, `canonical` always says it the same way, `parse` reads any of them back.
Every word belongs to one thing only (objects and backgrounds have different colour words), so that reading is exact.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from datasets.sprites.motions import KNOWN, NOVEL, SPEEDS, Motion
from datasets.sprites.world import (
    BACKGROUND_COLOURS,
    COLOURS,
    SHAPES,
    SIZES,
    TEXTURES,
    Background,
    Scene,
    Sprite,
)

_BACKGROUND_PHRASES = {
    "plain": ("on a {} background", "over a plain {} background", "in front of a {} background"),
    "gradient": ("on a {} gradient", "over a {} gradient", "in front of a {} gradient"),
    "checkered": ("on a {} checkerboard", "over a {} checkered background", "in front of a {} checkerboard"),
}


@dataclass(frozen=True)
class Said:
    """What a caption names; None where it says nothing."""

    sprite: Sprite | None
    background: Background | None
    motion: str | None
    adverb: str = ""


def _object(sprite: Sprite) -> str:
    words = ["" if sprite.size == "medium" else sprite.size, sprite.colour]
    words += ["" if sprite.texture == "plain" else sprite.texture, sprite.shape]
    phrase = " ".join(w for w in words if w)
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _sentence(obj: str, moves: str, behind: str, order: int) -> str:
    if moves.startswith("while"):
        return f"{obj} {behind} {moves}"
    parts = (obj, moves, behind) if order == 0 else (obj, behind, moves)
    return " ".join(p for p in parts if p)


def caption(scene: Scene, motion: Motion | None, rng: np.random.Generator, adverb: str = "") -> str:
    """One of the paraphrases. `motion` None names the appearance only."""
    obj = _object(scene.sprite)
    if scene.second is not None:
        obj += f" and {_object(scene.second)}"
    behind = str(rng.choice(_BACKGROUND_PHRASES[scene.background.kind])).format(scene.background.colour)
    moves = "" if motion is None else str(rng.choice(motion.phrases))
    order = int(rng.integers(2))
    return re.sub(
        r"\ba (?=olive)", "an ", _sentence(obj, " ".join(filter(None, (moves, adverb))), behind, order)
    )


def canonical(scene: Scene, motion: Motion | None, adverb: str = "") -> str:
    """The first paraphrase: "a red striped star moves to the right on a navy gradient"."""
    behind = _BACKGROUND_PHRASES[scene.background.kind][0].format(scene.background.colour)
    moves = "" if motion is None else " ".join(filter(None, (motion.phrases[0], adverb)))
    obj = _object(scene.sprite) + (f" and {_object(scene.second)}" if scene.second else "")
    return re.sub(r"\ba (?=olive)", "an ", _sentence(obj, moves, behind, 0))


def parse(text: str) -> Said:
    """Read a caption back. The first object counts; unknown words are passed over.

    "checkerboard" and "checkered" say checkered, "gradient" gradient. A motion is found by its longest phrase.
    """
    plain = " ".join(re.findall(r"[a-z]+", text.lower()))
    words = plain.split()

    def first(table) -> str | None:
        return next((w for w in words if w in table), None)

    shape, colour, behind = first(SHAPES), first(COLOURS), first(BACKGROUND_COLOURS)
    sprite = background = None
    if shape and colour:
        texture = first([t for t in TEXTURES if t != "plain"]) or "plain"
        sprite = Sprite(shape, colour, texture, first(SIZES) or "medium")
    if behind:
        checkered = first(("checkerboard", "checkered"))
        background = Background(
            behind, "checkered" if checkered else "gradient" if "gradient" in words else "plain"
        )
    found = [
        (len(phrase), motion.name)
        for motion in (KNOWN | NOVEL).values()
        for phrase in motion.phrases
        if re.search(rf"\b{phrase}\b", plain)
    ]
    return Said(sprite, background, max(found)[1] if found else None, first([a for a in SPEEDS if a]) or "")


def vocabulary() -> list[str]:
    """Every word of the grammar, sorted (novel motions' words too: they are tokens that pretraining never trains)."""
    text = [*SHAPES, *TEXTURES, *SIZES, *COLOURS, *BACKGROUND_COLOURS, *SPEEDS, "a", "an", "and"]
    text += [p.replace("{}", "") for phrases in _BACKGROUND_PHRASES.values() for p in phrases]
    text += [p for motion in (KNOWN | NOVEL).values() for p in motion.phrases]
    return sorted({word for line in text for word in line.split()})
