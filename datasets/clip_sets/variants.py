"""Variants of a clip: slower, faster, backwards or mirrored, each with words for it in the caption.

    variants([0.5, 2], reverse=True, words={"speed-2": "at double speed"})

A variant is a clip of the set like any other, with its own bytes, id and caption, so that one concept learns both and
a prompt can ask for either. Slower and faster variants show the source at the same frame rate in other steps:
each frame is the picture that a player shows at that time, never a blend.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.rows import FORBIDDEN

if TYPE_CHECKING:
    import numpy as np

SLOWEST, FASTEST = 0.5, 2.0
MAX_WORDS = 200  # characters
WORDS = {"reverse": "in reverse", "mirror": "mirrored"}
SLOW, FAST = "slowly", "fast"


@dataclass(frozen=True)
class Variant:
    """How a variant differs from its clip. The default is the clip itself."""

    name: str = ""  # "speed-0.5", "reverse", "mirror"
    words: str = ""  # added to the caption
    speed: float = 1.0
    reverse: bool = False
    mirror: bool = False

    def caption(self, caption: str) -> str:
        """The caption with this variant's words."""
        return f"{caption.rstrip(' .')} {self.words}" if self.words else caption

    def frames(self, frames_FHWC: np.ndarray) -> np.ndarray:
        """The clip's frames in another order, or mirrored left to right. Frames keep their times."""
        import numpy as np

        if self.reverse:
            frames_FHWC = frames_FHWC[::-1]
        if self.mirror:
            frames_FHWC = frames_FHWC[:, :, ::-1]
        return np.ascontiguousarray(frames_FHWC)


AS_IT_IS = Variant()


def speed_name(speed: float) -> str:
    """The name of a slower or faster variant: speed-0.5."""
    return f"speed-{speed:g}"


def check_speed(speed: float) -> float:
    """Raises ValueError unless a variant may have this speed."""
    if not (SLOWEST <= speed <= FASTEST and speed != 1):
        raise ValueError(f"expected a speed from {SLOWEST:g} to {FASTEST:g} other than 1, the clip's own")
    return speed


def variants(
    speeds: Iterable[float] = (),
    *,
    reverse: bool = False,
    mirror: bool = False,
    words: Mapping[str, str] | None = None,
) -> tuple[Variant, ...]:
    """The variants to make of each clip.

    Args:
        words: by the variant's name, in place of the usual ones.

    Raises:
        ValueError: a speed out of bounds or given twice, or words that are unusable or of a variant that is not made.
    """
    made = [
        Variant(speed_name(speed), SLOW if speed < 1 else FAST, speed=speed)
        for speed in map(check_speed, speeds)
    ]
    if reverse:
        made.append(Variant("reverse", WORDS["reverse"], reverse=True))
    if mirror:
        made.append(Variant("mirror", WORDS["mirror"], mirror=True))
    names = [variant.name for variant in made]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is given twice; give each speed once")
    given = {name: check_words(name, text) for name, text in (words or {}).items()}
    unknown = next((name for name in given if name not in names), None)
    if unknown is not None:
        raise ValueError(
            f"there are words for {unknown!r}, and the variants are {', '.join(names) or 'none'}; name one of them"
        )
    return tuple(
        Variant(one.name, given.get(one.name, one.words), one.speed, one.reverse, one.mirror) for one in made
    )


def check_words(name: str, text: str) -> str:
    """The words of a variant with normalized white space. Raises ValueError."""
    words = " ".join(text.split())
    if not words or len(words) > MAX_WORDS or FORBIDDEN.search(words):
        raise ValueError(
            f"the words of {name} are {text[:40]!a}; expected 1 to {MAX_WORDS} printable characters"
        )
    return words
