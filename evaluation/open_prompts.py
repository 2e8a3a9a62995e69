"""Open prompts name only the subject's class ("a heart", "a person") and leave its appearance open.

People write such prompts. They show what an adapter adds by itself: `evaluation.metrics.open_looks`
measures it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from datasets.sprites.captions import spoken
from datasets.sprites.world import SHAPES

# Here a caption stops naming its subject: "a person is riding a bicycle", "two dogs, running".
_GOES_ON = re.compile(r"\s*(?:[,.;:]|\b(?:is|are|was|were|while|that|who|which)\b)", re.IGNORECASE)


def open_prompts(captions: Iterable[str], sprites: bool, count: int | None = None) -> list[str]:
    """Prompts that leave the appearance open, without duplicates.

    Args:
        captions: of the reference clips.
        sprites: whether the clips are sprites. Then the classes are the shapes that no caption names,
            or all shapes if every one is named. For other clips they are the subjects of the captions.
        count: the maximum number; None for all.
    """
    if sprites:
        named = {spoken(caption).get("shape") for caption in captions}
        unseen = [shape for shape in SHAPES if shape not in named] or list(SHAPES)
        found = [f"a {shape}" for shape in unseen]
    else:
        found = list(dict.fromkeys(filter(None, map(subject_of, captions))))
    return found[:count]


def subject_of(caption: str) -> str:
    """A caption's subject: "a person is riding a bicycle" -> "a person". The whole caption if not found."""
    text = " ".join(caption.split())
    where = _GOES_ON.search(text)
    return text[: where.start()].strip() if where and where.start() > 0 else text
