"""The two concepts that the demo teaches, and what it asks of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Taught:
    """One concept of the demo: a novel motion of the sprite world, and what it is given to."""

    name: str
    about: str
    prompts: tuple[str, ...]
    seed: int


CONCEPTS = (
    Taught(
        name="orbit",
        about="Things on a circle: a motion the foundation never saw and has no word for.",
        prompts=(
            "a red star on a blue background",
            "a green heart on a gray background",
            "a yellow square on a black background",
        ),
        seed=11,
    ),
    Taught(
        name="zigzag",
        about="Things on a zigzag, as new to the foundation.",
        prompts=(
            "a blue circle on a beige background",
            "an orange triangle on a gray background",
            "a white diamond on a maroon background",
        ),
        seed=21,
    ),
)
