"""The grammar of captions: turns a scene and a motion into words, and words back into a scene.

`caption` draws a random paraphrase, `canonical` always gives the same one, `parse` reads any of them
back. Every word has one meaning only (objects and backgrounds have different colour words), so parsing
is exact. `parse` ignores what it does not know; `drawable` refuses captions that would be drawn
differently from what they say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
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
from infra.errors import UserError

_BACKGROUND_PHRASES = {
    "plain": ("on a {} background", "over a plain {} background", "in front of a {} background"),
    "gradient": ("on a {} gradient", "over a {} gradient", "in front of a {} gradient"),
    "checkered": ("on a {} checkerboard", "over a {} checkered background", "in front of a {} checkerboard"),
}
# "on a navy gradient" and the like, also with words that are no background's
_BEHIND = re.compile(
    r"\b(?:on|over|against|in front of) (?P<words>(?:[a-z]+ ){0,5}?)(?:background|backdrop|gradient|checkerboard)\b"
)
# backgrounds in other words: "on white", "over a lawn", "blue background"
_SOMETHING_BEHIND = re.compile(
    rf"\b(?:on|over|against|in front of) (?:an?|the|plain|{'|'.join(COLOURS)})\b"
    r"|\b(?:background|backdrop|gradient|checkerboard|checkered)\b"
)


@dataclass(frozen=True)
class Said:
    """What a caption names; None for what it does not name."""

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
    """A random paraphrase. Without `motion` it names only the appearance."""
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


def _plain(text: str) -> str:
    """The text in lower case, with letters and single spaces only."""
    return " ".join(re.findall(r"[a-z]+", text.lower()))


def _of_the_objects(plain: str) -> list[str]:
    """The words outside a background's phrase."""
    return _BEHIND.sub(" ", plain).split()


def _first_object(words: list[str]) -> list[str]:
    """The words of the first object: up to its shape if a second object is named, otherwise all."""
    places = [i for i, word in enumerate(words) if word in SHAPES]
    return words[: places[0] + 1] if len(places) > 1 else words


def parse(text: str) -> Said:
    """Parse a caption. Only the first object counts; unknown words are ignored.

    "checkerboard" and "checkered" mean checkered, "gradient" gradient. The longest matching motion
    phrase counts.
    """
    plain = _plain(text)
    words, of_it = plain.split(), _first_object(_of_the_objects(plain))

    def first(table, among: list[str]) -> str | None:
        return next((w for w in among if w in table), None)

    shape, colour, behind = first(SHAPES, of_it), first(COLOURS, of_it), first(BACKGROUND_COLOURS, words)
    sprite = background = None
    if shape and colour:
        texture = first([t for t in TEXTURES if t != "plain"], of_it) or "plain"
        sprite = Sprite(shape, colour, texture, first(SIZES, of_it) or "medium")
    if behind:
        checkered = first(("checkerboard", "checkered"), words)
        background = Background(
            behind, "checkered" if checkered else "gradient" if "gradient" in words else "plain"
        )
    found = [
        (len(phrase), motion.name)
        for motion in (KNOWN | NOVEL).values()
        for phrase in motion.phrases
        if re.search(rf"\b{phrase}\b", plain)
    ]
    adverb = first([a for a in SPEEDS if a], words) or ""
    return Said(sprite, background, max(found)[1] if found else None, adverb)


def spoken(text: str) -> dict[str, str]:
    """The looks that a text names, one by one, even for incomplete objects ("a star", "something red").

    Keys, if named: shape, colour, texture, size, background, background_kind. "Plain" and "medium" are
    implied for an object with both colour and shape, and "plain" for a background with a colour.
    """
    plain = _plain(text)
    said, among = parse(text), _first_object(_of_the_objects(plain))
    tables: dict[str, Iterable[str]] = {
        "shape": SHAPES,
        "colour": COLOURS,
        "texture": TEXTURES[1:],
        "size": SIZES,
    }
    words = {look: next((w for w in among if w in table), None) for look, table in tables.items()}
    if said.sprite is not None:
        words |= {look: getattr(said.sprite, look) for look in tables}
    if said.background is not None:
        words |= {"background": said.background.colour, "background_kind": said.background.kind}
    return {look: word for look, word in words.items() if word is not None}


def drawable(text: str) -> Scene:
    """The scene that a caption names, on plain gray if it names no background.

    Raises:
        UserError: it names no object or several, or a background that does not exist. Drawn anyway, the
            clip would not show what its caption says.
    """
    plain, said = _plain(text), parse(text)
    behind = _BEHIND.search(plain)
    foreign = [
        word
        for word in (behind["words"].split() if behind else ())
        if word in (*SHAPES, *COLOURS, *SIZES) or (word in TEXTURES and word != "plain")
    ]
    if foreign or (said.background is None and _SOMETHING_BEHIND.search(plain)):
        raise UserError(
            f"{text!r} names a background that cannot be drawn"
            f"{f': no background is {foreign[0]}' if foreign else ''}; its colour must be one of {_backgrounds(foreign)}, "
            'as in "on a navy background", "on a navy gradient" or "on a navy checkerboard".'
        )
    if said.sprite is None:
        raise UserError(
            f"{text!r} names no object; expected a colour and a shape, such as "
            '"a red striped star on a navy gradient" (`sprites list` lists the words).'
        )
    objects = _of_the_objects(plain)
    for name, table, among in (
        ("shape", SHAPES, objects),
        ("colour", COLOURS, objects),
        ("texture", TEXTURES, objects),
        ("size", SIZES, objects),
        ("background colour", BACKGROUND_COLOURS, plain.split()),
    ):
        named = [word for word in among if word in table]
        if len(named) > 1:
            raise UserError(
                f"{text!r} names more than one {name} ({', '.join(named)}), but only one object on one background can be "
                "drawn; name one of each."
            )
    return Scene(said.sprite, said.background or Background())


def _backgrounds(foreign: list[str]) -> str:
    """The background colours, sorted by similarity to the first object colour in `foreign`, if any."""
    names = list(BACKGROUND_COLOURS)
    colour = next((COLOURS[word] for word in foreign if word in COLOURS), None)
    if colour is not None:
        names.sort(key=lambda name: float(np.linalg.norm(np.subtract(BACKGROUND_COLOURS[name], colour))))
    return ", ".join(names)


def vocabulary() -> list[str]:
    """Every word of the grammar, sorted; also novel motions' words, whose tokens pretraining never trains."""
    text = [*SHAPES, *TEXTURES, *SIZES, *COLOURS, *BACKGROUND_COLOURS, *SPEEDS, "a", "an", "and"]
    text += [p.replace("{}", "") for phrases in _BACKGROUND_PHRASES.values() for p in phrases]
    text += [p for motion in (KNOWN | NOVEL).values() for p in motion.phrases]
    return sorted({word for line in text for word in line.split()})
