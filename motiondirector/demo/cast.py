"""The two concepts that the demo trains, with their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infra.errors import UserError


@dataclass(frozen=True)
class Taught:
    """One concept of the demo: a novel motion of the sprite world and its prompts.

    Args:
        references: number of reference clips to render.
        steps: training steps. Fewer than the foundation recommends for any motion, because this one is
            learned sooner.
        comparable: whether `--coupled` also trains the coupled baseline, one LoRA for appearance and
            motion together.
    """

    name: str
    about: str
    references: int
    steps: int
    comparable: bool
    prompts: tuple[str, ...]
    seed: int


CONCEPTS = (
    Taught(
        name="orbit",
        about="Things on a circle, from a single clip: a motion the foundation never saw and has no word for.",
        references=1,
        steps=480,
        comparable=True,
        prompts=(
            "a cyan star orbits on a maroon background",
            "a red heart orbits on a teal gradient",
            "a white ring orbits on a navy checkerboard",
        ),
        seed=11,
    ),
    Taught(
        name="zigzag",
        about="Things on a zigzag, from four clips in four appearances.",
        references=4,
        steps=1000,
        comparable=False,
        prompts=(
            "a blue circle zigzags on a mint background",
            "an orange square zigzags on a teal gradient",
            "a pink cross zigzags on an olive background",
        ),
        seed=21,
    ),
)


def chosen(names: Sequence[str] | None) -> tuple[Taught, ...]:
    """The concepts with these names, in the order of CONCEPTS; default: all. Raises UserError if unknown."""
    known = {concept.name for concept in CONCEPTS}
    if unknown := [name for name in names or () if name not in known]:
        raise UserError(f"the demo has no concept {unknown[0]!r}; choose from {', '.join(sorted(known))}.")
    return tuple(concept for concept in CONCEPTS if not names or concept.name in names)
