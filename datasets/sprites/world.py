"""The content of a sprite scene: one object (optionally a second) on a background.

All lengths are in frame widths and all angles in turns (1.0 = a full turn), x to the right and y down.
So a scene does not depend on the resolution at which it is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from infra.errors import UserError

if TYPE_CHECKING:
    from datasets.sprites.style import Style

RGB = tuple[int, int, int]

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
TEXTURES = ("plain", "striped", "dotted")
SIZES = {"small": 0.155, "medium": 0.185, "large": 0.225}  # radius in frame widths
COLOURS: dict[str, RGB] = {
    "red": (225, 35, 35),
    "orange": (255, 135, 0),
    "yellow": (255, 230, 30),
    "green": (40, 190, 50),
    "cyan": (40, 225, 235),
    "blue": (40, 75, 240),
    "purple": (150, 45, 205),
    "pink": (255, 125, 190),
    "white": (252, 252, 252),
    "black": (10, 10, 10),
}
# The words differ from the objects' colours on purpose, so that prompts are unambiguous without grammar.
BACKGROUND_COLOURS: dict[str, RGB] = {
    "gray": (128, 128, 128),
    "navy": (30, 40, 105),
    "teal": (0, 110, 115),
    "olive": (95, 120, 35),
    "maroon": (110, 20, 45),
    "beige": (212, 186, 145),
    "brown": (125, 78, 48),
    "lavender": (186, 170, 222),
    "mint": (165, 220, 185),
    "sky": (145, 190, 235),
}
BACKGROUND_KINDS = ("plain", "gradient", "checkered")
CHECKER = 0.25  # side of one square of a checkered background, frame widths
CONTRAST = 0.24  # a gradient or a pattern spans the colour times (1 - CONTRAST) .. (1 + CONTRAST)


def _check(value: str, words: tuple[str, ...], name: str) -> None:
    if value not in words:
        raise UserError(f"no sprite {name} is called {value!r}; choose one of: {', '.join(words)}.")


@dataclass(frozen=True)
class Sprite:
    """An object's appearance. `size` is a word of SIZES; `scale` multiplies its radius."""

    shape: str = "circle"
    colour: str = "red"
    texture: str = "plain"
    size: str = "medium"
    scale: float = 1.0

    def __post_init__(self) -> None:
        for value, words, name in (
            (self.shape, SHAPES, "shape"),
            (self.colour, tuple(COLOURS), "colour"),
            (self.texture, TEXTURES, "texture"),
            (self.size, tuple(SIZES), "size"),
        ):
            _check(value, words, name)

    @property
    def radius(self) -> float:
        """Radius of the circle around the shape, in frame widths."""
        return SIZES[self.size] * self.scale


@dataclass(frozen=True)
class Background:
    """The background: a colour and how it is distributed."""

    colour: str = "gray"
    kind: str = "plain"

    def __post_init__(self) -> None:
        _check(self.colour, tuple(BACKGROUND_COLOURS), "background colour")
        _check(self.kind, BACKGROUND_KINDS, "background kind")


@dataclass(frozen=True)
class Scene:
    """Everything but the motion. `second` is an optional other object with a separate motion.

    `style` holds looks that captions have no word for (`datasets.sprites.style`); None adds none.
    """

    sprite: Sprite = Sprite()
    background: Background = Background()
    second: Sprite | None = None
    style: Style | None = None

    @property
    def appearance(self) -> tuple[str, str, str, str, str]:
        """(colour, texture, shape, background colour, background kind)."""
        s, b = self.sprite, self.background
        return s.colour, s.texture, s.shape, b.colour, b.kind


def two_tones(rgb: RGB) -> np.ndarray:
    """The two colours [2, 3] (0..255) of a two-toned object: its own and a darker one (black: lighter)."""
    own = np.asarray(rgb, np.float32)
    return np.stack([own, own * 0.55 if own.max() > 60 else own + 75.0])


def background_tones(rgb: RGB) -> np.ndarray:
    """The darkest and the lightest colour [2, 3] (0..255) of a gradient or checkered background."""
    own = np.asarray(rgb, np.float32)
    return np.stack([own * (1 - CONTRAST), np.minimum(own * (1 + CONTRAST) + 6.0, 255.0)])


def sample_scene(rng: np.random.Generator, *, second: float = 0.0) -> Scene:
    """Draw a random scene from the appearance space; `second` is the share of scenes with two objects."""
    sprites = [
        Sprite(
            shape=str(rng.choice(SHAPES)),
            colour=str(rng.choice(list(COLOURS))),
            texture=str(rng.choice(TEXTURES, p=[0.5, 0.25, 0.25])),
            size=str(rng.choice(list(SIZES), p=[0.2, 0.6, 0.2])),
            scale=float(rng.uniform(0.96, 1.04)),
        )
        for _ in range(2)
    ]
    background = Background(str(rng.choice(list(BACKGROUND_COLOURS))), str(rng.choice(BACKGROUND_KINDS)))
    if rng.random() < second:
        small = [replace(s, size="small") for s in sprites]
        return Scene(small[0], background, small[1])
    return Scene(sprites[0], background)


def appearances(n: int, seed: int = 0) -> list[Scene]:
    """`n` different medium-size scenes; shapes, colours and backgrounds differ while there are enough."""
    rng = np.random.default_rng(seed)
    cycles = [rng.permutation(list(words)) for words in (SHAPES, COLOURS, BACKGROUND_COLOURS)]
    kinds = rng.permutation(list(product(TEXTURES, BACKGROUND_KINDS)))
    return [
        Scene(
            Sprite(str(cycles[0][i % 8]), str(cycles[1][i % 10]), str(kinds[i % 9][0])),
            Background(str(cycles[2][(i + i // 10) % 10]), str(kinds[i % 9][1])),
        )
        for i in range(n)
    ]
