"""Appearance of sprites: whether a video shows what the prompt names, or the reference's appearance instead.

Prompts are read with the grammar (`datasets.sprites.captions.parse`; of two objects the first counts,
which must be the larger one in the frame), videos with the tracker. Size words are not judged, because
the motion changes sizes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from datasets.sprites.captions import parse
from evaluation.metric import Case, PerCase
from evaluation.metrics.sprite_tracking import shown, tracked

ATTRIBUTES = ("colour", "shape", "texture", "background")
LEAKING = ("colour", "shape", "background")
Words = tuple[str | None, ...]


def named(prompt: str) -> dict[str, Words]:
    """The values named by the prompt, by attribute; a background is (colour, kind). Others are absent.

    The grammar has no word for "plain": an object or background named without a texture or kind is plain.
    An object counts as named if both its colour and its shape are.
    """
    said = parse(prompt)
    words: dict[str, Words] = {}
    if said.sprite is not None:
        words |= {name: (getattr(said.sprite, name),) for name in ("colour", "shape", "texture")}
    if said.background is not None:
        words["background"] = (said.background.colour, said.background.kind)
    return words


def visible(video_FHWC: np.ndarray) -> dict[str, Words]:
    """What most frames show, by attribute, in the form of `named`."""
    seen = shown(video_FHWC)
    words: dict[str, Words] = {name: (seen[name],) for name in ("colour", "shape", "texture")}
    words["background"] = (seen["background"], seen["background_kind"])
    return words


class AppearanceAccuracy(PerCase):
    """Share of the named attributes that most frames show; higher is better, [0, 1].

    `|{attributes named and shown}| / |{attributes named}|` over colour, shape, texture and background
    (right if both colour and kind are). With `attribute`, only that one: 1 or 0. An object absent from
    most frames is wrong in all its attributes. None: the prompt names none of them. Own measure,
    possible because the sprite world has a fixed vocabulary.
    """

    better: Literal["higher", "lower"] = "higher"
    range = (0.0, 1.0)

    def __init__(self, attribute: str | None = None) -> None:
        assert attribute is None or attribute in ATTRIBUTES, attribute
        self.attributes = ATTRIBUTES if attribute is None else (attribute,)
        self.name = "appearance_accuracy" + (f"_{attribute}" if attribute else "")
        self.title = "appearance accuracy" + (f", {attribute}" if attribute else "")

    def value(self, case: Case) -> float | None:
        asked = named(case.prompt)
        judged = [name for name in self.attributes if name in asked]
        if not judged:
            return None
        seen = visible(case.video_FHWC)
        return float(np.mean([seen[name] == asked[name] for name in judged]))


class ObjectPresence(PerCase):
    """1 if the tracker finds an object in every frame, else 0; higher is better. Own measure.

    An object is anything that stands out from the background over enough pixels, whatever its form. A
    smear counts too; it lowers shape accuracy and temporal consistency instead.
    """

    name = "object_presence"
    title = "object presence"
    better: Literal["higher", "lower"] = "higher"
    range = (0.0, 1.0)

    def value(self, case: Case) -> float | None:
        return float(tracked(case.video_FHWC).present)


class AppearanceLeakage(PerCase):
    """1 if a reference's colour, shape or background replaces the prompt's, else 0; lower is better.

    For one attribute: `shown != named and shown in {what the references show}`. Without `attribute`, 1
    if any of the three leaks. The references' appearance is also measured from pixels. A background
    leaks by its colour, because its kind has only three values and would match by chance too often.
    Many different references also match by chance: a wrong colour drawn uniformly leaks from k of them
    with a probability of about k / 9.

    None: the prompt does not name the attribute, or names what every reference shows, so that nothing
    can leak. Also None if no reference shows one of the attributes (the tracker does not find the
    object): judging by the others alone would underestimate leakage. Own measure, of what the method's
    debiasing and dual-path training are meant to prevent.
    """

    better: Literal["higher", "lower"] = "lower"
    range = (0.0, 1.0)

    def __init__(self, attribute: str | None = None) -> None:
        assert attribute is None or attribute in LEAKING, attribute
        self.attributes = LEAKING if attribute is None else (attribute,)
        self.name = "appearance_leakage" + (f"_{attribute}" if attribute else "")
        self.title = "appearance leakage" + (f", {attribute}" if attribute else "")

    def value(self, case: Case) -> float | None:
        asked = named(case.prompt)
        seen = visible(case.video_FHWC)
        learnt = [visible(reference.video_FHWC) for reference in case.references]
        leaks = []
        for name in self.attributes:
            theirs = {words[name][0] for words in learnt} - {None}
            if name not in asked:
                continue
            if not theirs:
                return None
            if theirs - {asked[name][0]}:
                leaks.append(seen[name][0] != asked[name][0] and seen[name][0] in theirs)
        return float(any(leaks)) if leaks else None
