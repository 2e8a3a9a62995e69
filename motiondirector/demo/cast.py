"""The two concepts that the demo teaches, and what it asks of them."""

from __future__ import annotations

from motiondirector.demo.story import Taught

CONCEPTS = (
    Taught(
        name="orbit",
        about="Four rendered clips of things on a circle, a motion the foundation never saw and has no word for.",
        clips="orbit",
        rendered=True,
        prompts=(
            "a red star on a blue background",
            "a green heart on a grey background",
            "a yellow square on a black background",
        ),
        seed=11,
    ),
    Taught(
        name="zigzag",
        about="Four rendered clips of things going down in a zigzag.",
        clips="zigzag",
        rendered=True,
        prompts=(
            "a red star on a blue background",
            "a green heart on a grey background",
            "a yellow square on a black background",
        ),
        seed=21,
    ),
)
