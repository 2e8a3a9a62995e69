"""Looks that captions have no word for: how a scene is drawn, beyond its content.

A caption names an object and its background. A style is what it leaves out, as captions of real clips
do: an outline, a colour cast, grain, clutter, an idle object, a drifting camera. The style, including
its seed, determines all of it. Lengths in frame widths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datasets.sprites.world import BACKGROUND_COLOURS, COLOURS, RGB, SHAPES, Sprite
from infra.errors import UserError

if TYPE_CHECKING:
    from datasets.sprites.motions import Trajectory

Array = np.ndarray
OUTLINE = 0.024  # width of the line inside the object's rim
INK: RGB = (18, 16, 24)
CHALK: RGB = (246, 246, 240)  # the line around a black object
TINTS: dict[str, RGB] = {
    "warm": (255, 150, 30),
    "cold": (30, 120, 255),
    "rose": (255, 50, 150),
    "leafy": (60, 220, 60),
}
TINT = 0.28  # default share of the tint's colour in every pixel
GRAIN_CELL = 1 / 32  # side of a grain: two pixels of 64
MARKS = (0.032, 0.045)  # radii of clutter
MARK_SHAPES = ("circle", "square", "triangle", "cross")
APART = 70.0  # minimum RGB distance of clutter from its background
IDLE = 0.6  # scale of the idle object, smaller than any moving one


@dataclass(frozen=True)
class Style:
    """How a scene is drawn. The default adds nothing.

    Args:
        outline: a dark line along the object's rim (a light one on a black object).
        tint: a word of TINTS whose colour is mixed into every pixel; "" for none.
        tint_strength: share of the tint's colour, in [0.01, 0.6].
        grain: standard deviation of the noise, in grey levels (0..60), new in each frame.
        clutter: how many small things rest on the background (0..40).
        drift: (x, y) movement of the camera over the clip; everything on the screen moves the other way.
        idle: another object, which rests in the scene, drawn at IDLE times its size.
        seed: decides the positions of clutter and idle object, and the grain.
    """

    outline: bool = False
    tint: str = ""
    tint_strength: float = TINT
    grain: float = 0.0
    clutter: int = 0
    drift: tuple[float, float] = (0.0, 0.0)
    idle: Sprite | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tint and self.tint not in TINTS:
            raise UserError(f"no tint is called {self.tint!r}; choose one of: {', '.join(TINTS)}.")
        for value, low, high, name in (
            (self.tint_strength, 0.01, 0.6, "strength of a tint"),
            (self.grain, 0.0, 60.0, "grain"),
            (self.clutter, 0, 40, "number of clutter objects"),
            (max(map(abs, self.drift)), 0.0, 0.5, "drift of the camera"),
        ):
            if not low <= value <= high:
                raise UserError(f"the {name} is {value:g}; it must be between {low:g} and {high:g}.")

    @property
    def plain(self) -> bool:
        """Whether nothing is added to the scene."""
        return not (self.outline or self.tint or self.grain or self.clutter or any(self.drift) or self.idle)


PARTS = ("outline", "tint", "grain", "clutter", "drift", "idle")


def sample_style(rng: np.random.Generator, parts: int = 2) -> Style:
    """Draw a style with `parts` of PARTS at usual strength. A drift adds clutter, which makes it visible."""
    chosen = set(rng.permutation(PARTS)[:parts].tolist())
    way = rng.uniform(0, 2 * np.pi)
    return Style(
        outline="outline" in chosen,
        tint=str(rng.choice(list(TINTS))) if "tint" in chosen else "",
        grain=float(rng.uniform(14, 24)) if "grain" in chosen else 0.0,
        clutter=int(rng.integers(8, 16)) if chosen & {"clutter", "drift"} else 0,
        drift=(0.18 * float(np.cos(way)), 0.18 * float(np.sin(way))) if "drift" in chosen else (0.0, 0.0),
        idle=Sprite(str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS))), size="small")
        if "idle" in chosen
        else None,
        seed=int(rng.integers(1 << 16)),
    )


def line_colour(colour: str) -> Array:
    """Colour of the outline around an object of this colour, [3]."""
    return np.asarray(CHALK if colour == "black" else INK, np.float32)


@dataclass(frozen=True)
class Mark:
    """A small thing that rests on the background."""

    shape: str
    rgb: RGB
    x: float
    y: float
    radius: float
    angle: float


def marks(style: Style, background: str) -> list[Mark]:
    """The clutter on a background of this colour, spread apart and beyond the frame by the camera's drift."""
    rng = np.random.default_rng([style.seed, 1])
    own = np.asarray(BACKGROUND_COLOURS[background], float)
    colours = [rgb for rgb in BACKGROUND_COLOURS.values() if np.linalg.norm(np.subtract(rgb, own)) > APART]
    reach = np.abs(style.drift) / 2 + 0.05
    count = round(style.clutter * float(np.prod(1 + 2 * reach)))
    placed: list[Mark] = []
    for _ in range(count):
        # the one of a few places that is farthest from the others: even, but not a grid
        places = rng.uniform(-reach, 1 + reach, (12, 2))
        if placed:
            there = np.array([(m.x, m.y) for m in placed])
            places = places[[np.linalg.norm(places[:, None] - there, axis=-1).min(axis=1).argmax()]]
        placed.append(
            Mark(
                str(rng.choice(MARK_SHAPES)),
                colours[int(rng.integers(len(colours)))],
                float(places[0, 0]),
                float(places[0, 1]),
                float(rng.uniform(*MARKS)),
                float(rng.random()),
            )
        )
    return placed


def idle_place(style: Style, track: Trajectory, radius: float) -> tuple[float, float]:
    """The idle object's place in the scene: inside the frame and away from the moving object's path."""
    rng = np.random.default_rng([style.seed, 2])
    own = style.idle.radius * IDLE if style.idle else 0.0
    low, high = (np.array([edge(c) for c in (track.camera_x, track.camera_y)]) for edge in (np.max, np.min))
    places = rng.uniform(low + own, np.maximum(high + 1 - own, low + own), (64, 2))
    x, y, _ = track.on_screen()
    seen = np.stack([x, y], axis=-1)
    at = places[:, None] - np.stack([track.camera_x, track.camera_y], axis=-1)
    gap = np.linalg.norm(at - seen, axis=-1).min(axis=1) - radius - own
    clear = np.flatnonzero(gap > 0.03)  # any clear place, else the clearest
    chosen = places[clear[0]] if len(clear) else places[gap.argmax()]
    return float(chosen[0]), float(chosen[1])


def develop(canvas_FHWC: Array, style: Style) -> Array:
    """Add tint and grain to drawn frames, float32 in 0..255."""
    if style.tint:
        colour = np.asarray(TINTS[style.tint], np.float32)
        canvas_FHWC = canvas_FHWC + style.tint_strength * (colour - canvas_FHWC)
    if style.grain:
        canvas_FHWC = canvas_FHWC + style.grain * _grain(
            canvas_FHWC.shape[0], canvas_FHWC.shape[1], style.seed
        )
    return canvas_FHWC


def _grain(frames: int, size: int, seed: int) -> Array:
    """Noise of standard deviation 1, [F, H, W, 1]: the same grains, some pixels wide, at every resolution."""
    side = round(1 / GRAIN_CELL)
    noise = np.random.default_rng([seed, 3]).normal(size=(frames, side, side)).astype(np.float32)
    index = np.minimum((np.arange(size) * side) // size, side - 1)
    return noise[:, index][:, :, index][..., None]
