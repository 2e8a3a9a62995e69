"""Open prompts: they name the subject's class alone ("a heart", "a person") and leave every look open.

People write such prompts, and they tell what an adapter adds by itself: `evaluation.metrics.open_looks` measures it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from datasets.sprites.captions import spoken
from datasets.sprites.world import SHAPES

# What a caption says of its subject begins here: "a person is riding a bicycle", "two dogs, running".
_GOES_ON = re.compile(r"\s*(?:[,.;:]|\b(?:is|are|was|were|while|that|who|which)\b)", re.IGNORECASE)


def open_prompts(captions: Iterable[str], sprites: bool, count: int | None = None) -> list[str]:
    """Prompts that leave looks open, each once.

    Args:
        captions: of the reference clips.
        sprites: of the sprite world: the classes are shapes, those first that no caption names. Other clips: the subjects of
            the captions.
        count: at most so many; None for all.
    """
    if sprites:
        named = {spoken(caption).get("shape") for caption in captions}
        unseen = [shape for shape in SHAPES if shape not in named] or list(SHAPES)
        found = [f"a {shape}" for shape in unseen]
    else:
        found = list(dict.fromkeys(filter(None, map(subject_of, captions))))
    return found[:count]


def subject_of(caption: str) -> str:
    """A caption up to what its subject does: "a person is riding a bicycle" -> "a person". All of it where that is not told."""
    text = " ".join(caption.split())
    where = _GOES_ON.search(text)
    return text[: where.start()].strip() if where and where.start() > 0 else text
