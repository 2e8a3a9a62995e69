"""Draws a scene in motion from signed distances: anti-aliased, vectorised and deterministic by seed.

Letters: F frames, H and W pixels, C = 3 colours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from datasets.sprites.motions import Motion, Trajectory, at_rest, drifting
from datasets.sprites.style import IDLE, OUTLINE, Style, develop, idle_place, line_colour, marks
from datasets.sprites.world import (
    BACKGROUND_COLOURS,
    CHECKER,
    COLOURS,
    RGB,
    SIZES,
    Background,
    Scene,
    Sprite,
    background_tones,
    two_tones,
)

Array = np.ndarray


def _circle(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - 0.88


def _square(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - 0.76


def _triangle(x: Array, y: Array) -> Array:
    return np.maximum(y - 0.5, np.abs(x) * 0.8660254 - y * 0.5 - 0.5)


def _star(x: Array, y: Array) -> Array:
    sector = np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + sector) % (2 * sector) - sector)
    r = np.hypot(x, y)
    px, py = r * np.cos(angle), r * np.sin(angle)
    tip, inner = 1.05, 0.46
    qx, qy = inner * np.cos(sector), inner * np.sin(sector)
    nx, ny = qy, tip - qx  # normal of the edge from (tip, 0) to (qx, qy)
    return ((px - tip) * nx + py * ny) / np.hypot(nx, ny)


def _heart(x: Array, y: Array) -> Array:
    y = y + 0.1
    d = 0.86
    lobes = np.hypot(np.abs(x) - d / 2, y + d / 2) - d / np.sqrt(2)
    return np.minimum(lobes, (np.abs(x) + np.abs(y) - d) / np.sqrt(2))


def _cross(x: Array, y: Array) -> Array:
    ax, ay = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(ax - 0.95, ay - 0.31), np.maximum(ay - 0.95, ax - 0.31))


def _ring(x: Array, y: Array) -> Array:
    return np.abs(np.hypot(x, y) - 0.68) - 0.25


def _moon(x: Array, y: Array) -> Array:
    x = x - 0.2
    return np.maximum(np.hypot(x, y) - 0.95, 0.78 - np.hypot(x - 0.52, y))


DISTANCES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "ring": _ring,
    "moon": _moon,
}


def _pixels(size: int) -> tuple[Array, Array]:
    """Centres of the pixels, in frame widths: x [1, 1, W], y [1, H, 1]."""
    centres = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return centres[None, None, :], centres[None, :, None]


def draw_background(background: Background, track: Trajectory, size: int) -> Array:
    """The background, float32 [F, H, W, C] in 0..255 (F is 1 if all frames are equal)."""
    own = np.asarray(BACKGROUND_COLOURS[background.colour], np.float32)
    if background.kind == "plain":
        return np.broadcast_to(own, (1, size, size, 3)).copy()
    x, y = _pixels(size)
    moving = np.ptp(track.camera_x) + np.ptp(track.camera_y) + np.ptp(track.zoom) > 0
    frames = slice(None) if moving else slice(0, 1)
    cx, cy, zoom = (
        np.asarray(v[frames], np.float32)[:, None, None] for v in (track.camera_x, track.camera_y, track.zoom)
    )
    zoom = zoom**track.depth
    u, v = (x - 0.5) / zoom + 0.5 + cx, (y - 0.5) / zoom + 0.5 + cy
    if background.kind == "gradient":
        blend = np.clip(v, 0.0, 1.0) + 0 * u
    else:  # product of two square waves, softened over a pixel
        sharp = size * CHECKER * 0.5 * zoom

        def wave(w: Array) -> Array:
            fold = np.abs((w / CHECKER) % 2 - 1) - 0.5  # zero at the edges of the squares
            return np.clip(fold * 2 * sharp, -1, 1)

        blend = 0.5 + 0.5 * wave(u) * wave(v)
    dark, light = background_tones(BACKGROUND_COLOURS[background.colour])
    return light + blend[..., None] * (dark - light)


def draw_sprite(
    canvas_FHWC: Array, sprite: Sprite, track: Trajectory, *, outline: float = 0.0, rgb: RGB | None = None
) -> None:
    """Draw the object over the canvas, in place.

    Args:
        outline: width of the line along its rim, in frame widths; 0 for none.
        rgb: a plain colour that replaces the sprite's, if it is none of COLOURS.
    """
    size = canvas_FHWC.shape[1]
    for seen in _seen(sprite, track, size):
        patch = canvas_FHWC[seen.frame, seen.rows, seen.columns]
        own = (
            texture_colours(sprite, seen.u, seen.v, seen.pixels)
            if rgb is None
            else np.asarray(rgb, np.float32)
        )
        if outline:
            line = np.clip(0.5 + seen.distance + outline * size, 0, 1)[..., None]
            own = own + line * (line_colour(sprite.colour) - own)
        patch += seen.alpha[..., None] * (own - patch)


@dataclass(frozen=True)
class _Seen:
    """An object in one frame: the part of the picture around it, and the object's own coordinates there."""

    frame: int
    rows: slice
    columns: slice
    u: Array
    v: Array
    pixels: float  # per unit of u, v
    distance: Array  # of each pixel from the object's rim, in pixels; negative inside

    @property
    def alpha(self) -> Array:
        """How much of each pixel the object covers."""
        return np.clip(0.5 - self.distance, 0, 1)


def _seen(sprite: Sprite, track: Trajectory, size: int) -> Iterator[_Seen]:
    """The object in each frame that shows anything around it."""
    x, y = _pixels(size)
    shown_x, shown_y, scale = track.on_screen()
    for f in range(len(track)):
        radius = sprite.radius * scale[f]
        reach = 1.25 * radius + 1.0 / size
        x0, x1 = (int(np.clip(np.floor((shown_x[f] + s * reach) * size), 0, size)) for s in (-1, 1))
        y0, y1 = (int(np.clip(np.floor((shown_y[f] + s * reach) * size), 0, size)) for s in (-1, 1))
        if x0 >= x1 or y0 >= y1:
            continue
        px, py = (x[0, :, x0:x1] - shown_x[f]) / radius, (y[0, y0:y1] - shown_y[f]) / radius
        turn = 2 * np.pi * track.angle[f]
        cos, sin = np.cos(turn, dtype=np.float32), np.sin(turn, dtype=np.float32)
        u, v = cos * px + sin * py, cos * py - sin * px
        pixels = radius * size
        yield _Seen(f, slice(y0, y1), slice(x0, x1), u, v, pixels, DISTANCES[sprite.shape](u, v) * pixels)


def object_boxes(
    sprite: Sprite, track: Trajectory, size: int
) -> list[tuple[float, float, float, float] | None]:
    """The box around the object's pixels in each frame: (left, top, right, bottom) as fractions; None if it is not seen."""
    found: list[tuple[float, float, float, float] | None] = [None] * len(track)
    for seen in _seen(sprite, track, size):
        rows, columns = (np.flatnonzero((seen.alpha > 0).any(axis)) for axis in (1, 0))
        if len(rows):
            left, top = seen.columns.start + int(columns[0]), seen.rows.start + int(rows[0])
            right, bottom = seen.columns.start + int(columns[-1]) + 1, seen.rows.start + int(rows[-1]) + 1
            found[seen.frame] = (left / size, top / size, right / size, bottom / size)
    return found


def texture_colours(sprite: Sprite, u: Array, v: Array, pixels: float) -> Array:
    """The object's colour at (u, v): [..., C], or [C] for a plain one."""
    tones = two_tones(COLOURS[sprite.colour])
    if sprite.texture == "plain":
        return tones[0]
    if sprite.texture == "striped":
        distance = (np.abs((v / 0.8 + 0.25) % 1 - 0.5) - 0.25) * 0.8 + 0 * u
    else:
        distance = np.hypot((u / 0.8 + 0.5) % 1 - 0.5, (v / 0.8 + 0.5) % 1 - 0.5) * 0.8 - 0.24
    own = np.clip(0.5 + distance * pixels, 0, 1)[..., None]
    return tones[1] + own * (tones[0] - tones[1])


def draw(scene: Scene, track: Trajectory, size: int, second: Trajectory | None = None) -> Array:
    """Draw a scene along given trajectories: uint8 [F, H, W, C]."""
    style = scene.style or Style()
    canvas = draw_background(scene.background, track, size)
    if len(canvas) == 1:
        canvas = np.repeat(canvas, len(track), axis=0)
    for mark in marks(style, scene.background.colour):
        thing = Sprite(mark.shape, size="medium", scale=mark.radius / SIZES["medium"])
        draw_sprite(canvas, thing, at_rest(track, mark.x, mark.y, mark.angle), rgb=mark.rgb)
    outline = OUTLINE if style.outline else 0.0
    if style.idle is not None:
        place = idle_place(style, track, scene.sprite.radius)
        thing = replace(style.idle, scale=style.idle.scale * IDLE)
        draw_sprite(canvas, thing, at_rest(track, *place), outline=outline)
    if scene.second is not None and second is not None:
        draw_sprite(canvas, scene.second, second, outline=outline)
    draw_sprite(canvas, scene.sprite, track, outline=outline)
    return np.clip(develop(canvas, style) + 0.5, 0, 255).astype(np.uint8)


def render_clip(
    scene: Scene,
    motion: Motion,
    frames: int = 8,
    size: int = 64,
    seed: int = 0,
    *,
    second_motion: Motion | None = None,
    speed: float = 1.0,
) -> Array:
    """Draw `scene` in `motion`: uint8 [F, H, W, C]. `seed` decides where in the frame the motion is."""
    track, other = trajectories(scene, motion, frames, seed, second_motion=second_motion, speed=speed)
    return draw(scene, track, size, other)


def trajectories(
    scene: Scene,
    motion: Motion,
    frames: int,
    seed: int,
    *,
    second_motion: Motion | None = None,
    speed: float = 1.0,
) -> tuple[Trajectory, Trajectory | None]:
    """The paths of the object and of the second one that `render_clip` draws."""
    rng = np.random.default_rng(seed)
    if scene.style is not None:
        motion = drifting(motion, *scene.style.drift)
    track = motion.trajectory(frames, rng, scene.sprite.radius, speed)
    other = None
    if scene.second is not None:
        other = (second_motion or motion).trajectory(frames, rng, scene.second.radius, speed)
        if second_motion is not None and scene.style is not None:
            other = replace(other, camera_x=track.camera_x, camera_y=track.camera_y)
    return track, other
