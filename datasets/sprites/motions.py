"""Motions: trajectories of position, scale and rotation over t in [0, 1], and of the camera.

There are two sets here: KNOWN (the foundation is pretrained on them, with words) and NOVEL (it never sees
them, and customization teaches them). camera.py adds movements of the camera, motion_sources.py finds a
motion by name or reads one from a file. Lengths in frame widths, y down, angles in turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from datasets.sprites.wander import random_path

Array = np.ndarray
TRAVEL = 0.42  # length of a plain "moves right"
SPEEDS = {"slowly": 0.5, "": 1.0, "quickly": 1.35}  # factors of TRAVEL, by adverb


@dataclass(frozen=True)
class Trajectory:
    """The object's and the camera's path, frame by frame; each field is an array [F].

    `x`, `y` are absolute (0..1 is the frame), `scale` multiplies the radius, `angle` is in turns,
    clockwise. The camera is shifted by (`camera_x`, `camera_y`) from the middle and zoomed by `zoom`.
    The background is zoomed by `zoom ** depth`: a depth of 1 is a zoom; below 1 is a dolly, which
    changes the object's size more than the background's.
    """

    x: Array
    y: Array
    scale: Array
    angle: Array
    camera_x: Array
    camera_y: Array
    zoom: Array
    depth: float = 1.0

    def __len__(self) -> int:
        return len(self.x)

    def on_screen(self) -> tuple[Array, Array, Array]:
        """(x, y, scale) [F] as seen by the camera."""
        x = (self.x - 0.5 - self.camera_x) * self.zoom + 0.5
        y = (self.y - 0.5 - self.camera_y) * self.zoom + 0.5
        return x, y, self.scale * self.zoom


@dataclass(frozen=True)
class Motion:
    """A named motion: `path(t_F) -> dict` of displacements (keys of Trajectory; absent ones rest).

    `phrases` are its words. `fixed` paths (from a file) are absolute positions; the others are placed
    anywhere in the frame where they fit. `drawn` creates a new path for each clip.
    """

    name: str
    phrases: tuple[str, ...]
    path: Callable[[Array], dict[str, Array]]
    depth: float = 1.0
    fixed: bool = False
    speeds: bool = False  # "slowly" and "quickly" apply
    drawn: Callable[[np.random.Generator], Callable[[Array], dict[str, Array]]] | None = None

    def trajectory(
        self, frames: int, rng: np.random.Generator, radius: float = 0.185, speed: float = 1.0
    ) -> Trajectory:
        """The motion of an object of `radius`, placed at random where it stays in the frame, if it fits."""
        t = np.linspace(0.0, 1.0, frames)
        still, one = np.zeros(frames), np.ones(frames)
        p = (self.drawn(rng) if self.drawn else self.path)(t)
        x, y = p.get("x", still) * speed, p.get("y", still) * speed
        track = Trajectory(
            x + (0.0 if self.fixed else 0.5),
            y + (0.0 if self.fixed else 0.5),
            p.get("scale", one),
            p.get("angle", still),
            p.get("camera_x", still),
            p.get("camera_y", still),
            p.get("zoom", one),
            self.depth,
        )
        if self.fixed:
            return track
        shown_x, shown_y, scale = track.on_screen()
        reach = radius * 0.95 * scale
        # Moving the object by d moves it by d * zoom on the screen: this is the room on either side, in
        # scene units.
        dx, dy = (
            _place(rng, np.max((reach - s) / track.zoom), np.min((1 - reach - s) / track.zoom))
            for s in (shown_x, shown_y)
        )
        return Trajectory(
            track.x + dx,
            track.y + dy,
            track.scale,
            track.angle,
            track.camera_x,
            track.camera_y,
            track.zoom,
            self.depth,
        )


def _place(rng: np.random.Generator, low: float, high: float) -> float:
    """A random shift in [low, high]; the middle if the path is too wide for the frame."""
    u = float(rng.random())
    return low + u * (high - low) if high > low else (low + high) / 2


def _line(dx: float, dy: float) -> Callable[[Array], dict[str, Array]]:
    norm = TRAVEL / float(np.hypot(dx, dy))
    return lambda t: {"x": (t - 0.5) * dx * norm, "y": (t - 0.5) * dy * norm}


DIRECTIONS: dict[str, tuple[float, float]] = {
    "right": (1, 0),
    "left": (-1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up-right": (1, -1),
    "up-left": (-1, -1),
    "down-right": (1, 1),
    "down-left": (-1, 1),
}


def _direction(name: str) -> Motion:
    words = {
        "right": ("to the right", "right"),
        "left": ("to the left", "left"),
        "up": ("up", "upwards"),
        "down": ("down", "downwards"),
    }
    if "-" in name:
        vertical, horizontal = name.split("-")
        ways: tuple[str, ...] = (
            f"diagonally {vertical} and {horizontal}",
            f"{vertical} and to the {horizontal}",
        )
    else:
        ways = words[name]
    verbs = ("moves", "slides", "travels")
    return Motion(name, tuple(f"{v} {w}" for v in verbs for w in ways), _line(*DIRECTIONS[name]), speeds=True)


def _known(
    name: str, phrases: tuple[str, ...], depth: float = 1.0, **fields: Callable[[Array], Array]
) -> Motion:
    return Motion(name, phrases, lambda t: {key: f(t) for key, f in fields.items()}, depth)


KNOWN: dict[str, Motion] = {m.name: m for m in (_direction(name) for name in DIRECTIONS)} | {
    m.name: m
    for m in (
        _known("still", ("stays still", "does not move", "rests")),
        _known("grows", ("grows", "gets bigger"), scale=lambda t: 0.65 + 0.6 * t),
        _known("shrinks", ("shrinks", "gets smaller"), scale=lambda t: 1.25 - 0.6 * t),
        _known("spins", ("spins", "turns around itself"), angle=lambda t: 0.75 * t),
        _known("pan-right", ("while the camera pans right",), camera_x=lambda t: 0.36 * (t - 0.5)),
        _known("pan-left", ("while the camera pans left",), camera_x=lambda t: -0.36 * (t - 0.5)),
        _known("zoom-in", ("while the camera zooms in",), zoom=lambda t: 0.8 + 0.5 * t),
        _known("zoom-out", ("while the camera zooms out",), zoom=lambda t: 1.3 - 0.5 * t),
        _known("dolly-in", ("while the camera dollies in",), depth=0.3, zoom=lambda t: 0.75 + 0.6 * t),
        _known("dolly-out", ("while the camera dollies out",), depth=0.3, zoom=lambda t: 1.35 - 0.6 * t),
        Motion("wander", ("wanders", "roams", "strays"), _known("", ()).path, drawn=lambda rng: _wander(rng)),
    )
}
TURN = 2 * np.pi


def _novel(
    name: str, phrase: str, x: Callable[[Array], Array], y: Callable[[Array], Array], **more
) -> Motion:
    return Motion(name, (phrase,), lambda t: {"x": x(t), "y": y(t)} | {k: f(t) for k, f in more.items()})


def _triangle_wave(t: Array, periods: float) -> Array:
    return 2 * np.abs(2 * ((t * periods + 0.25) % 1) - 1) - 1


def _loop_angle(t: Array) -> Array:
    """Angle along a vertical loop in the middle of a path to the right: 0, one full turn, then constant."""
    return TURN * np.clip((t - 0.2) / 0.6, 0, 1)


_BENDS = np.arange(8) / 7  # times of the meander's corners


def _there_and_back(t: Array) -> Array:
    """0 to 1 in the first two sevenths of the time, back to 0 in the rest."""
    return np.interp(t, (0, 2 / 7, 1), (0, 1, 0))


NOVEL: dict[str, Motion] = {
    m.name: m
    for m in (
        _novel("orbit", "orbits", lambda t: 0.25 * np.cos(TURN * t), lambda t: 0.25 * np.sin(TURN * t)),
        _novel("zigzag", "zigzags", lambda t: 0.5 * (t - 0.5), lambda t: 0.2 * _triangle_wave(t, 1.5)),
        _novel("bounce", "bounces", lambda t: 0.44 * (t - 0.5), lambda t: 0.22 - 0.42 * np.abs(np.sin(TURN * t))),
        _novel(
            "spiral",
            "spirals",
            lambda t: 0.28 * (1 - 0.8 * t) * np.cos(TURN * 1.25 * t),
            lambda t: 0.28 * (1 - 0.8 * t) * np.sin(TURN * 1.25 * t),
        ),
        _novel(
            "figure-eight",
            "flies a figure of eight",
            lambda t: 0.28 * np.sin(TURN * t),
            lambda t: 0.2 * np.sin(2 * TURN * t),
        ),
        _novel("swing", "swings", lambda t: 0.27 * np.sin(TURN * t), lambda t: -0.12 * np.sin(TURN * t) ** 2),
        _novel("square", "patrols", lambda t: 0.24 * _side(t), lambda t: 0.24 * _side(t - 0.25)),
        _novel("loop", "loops", lambda t: 0.34 * (t - 0.5) - 0.16 * np.sin(_loop_angle(t)),
               lambda t: 0.16 * np.cos(_loop_angle(t))),
        _novel("boomerang", "returns", lambda t: 0.48 * np.sin(np.pi * t) - 0.24, lambda t: 0.16 * np.sin(TURN * t)),
        _novel("arc", "leaps", lambda t: 0.5 * (t - 0.5), lambda t: 0.3 - 1.2 * t * (1 - t) * 1.2),
        _novel("shake", "shakes", lambda t: 0.2 * np.sin(TURN * 2 * t), lambda t: 0 * t),
        _novel("hook", "hooks", lambda t: np.where(t < 0.5, 0.0, 0.8 * (t - 0.5)) - 0.2,
               lambda t: np.where(t < 0.5, 0.8 * (0.5 - t), 0.0) - 0.2),
        _novel(
            "corkscrew",
            "drills",
            lambda t: 0.24 * np.cos(TURN * t),
            lambda t: 0.3 * (0.5 - t),
            angle=lambda t: t,
            scale=lambda t: 0.8 + 0.3 * t,
        ),
        # Small, fast and reversing motions, added after the foundation was trained. Their phrases
        # repeat words of the motions above, because the tokenizer knows no others. Pretraining used
        # none of these phrases.
        _novel("whirl", "loops and loops", lambda t: 0.11 * np.cos(2 * TURN * t),
               lambda t: -0.11 * np.sin(2 * TURN * t)),
        _novel("double-orbit", "orbits and orbits", lambda t: 0.24 * np.sin(2 * TURN * t),
               lambda t: -0.24 * np.cos(2 * TURN * t)),
        _novel("lunge", "leaps and returns", lambda t: 0.3 * _there_and_back(t), lambda t: 0.3 * _there_and_back(t)),
        _novel("meander", "hooks and hooks", lambda t: 0.2 * np.interp(t, _BENDS, (-1, 1, 1, -1, -1, 1, 1, -1)),
               lambda t: 0.5 * np.interp(t, _BENDS, (-3, -3, -1, -1, 1, 1, 3, 3)) / 6),
        _novel("wave", "flies and swings", lambda t: 0.22 * np.sin(2 * TURN * t), lambda t: 0.5 * (0.5 - t)),
        _novel("pendulum", "swings and swings", lambda t: 0.26 * np.cos(1.5 * TURN * t),
               lambda t: -0.12 * np.cos(1.5 * TURN * t) ** 2),
    )
}  # fmt: skip

# What `wander` avoided when the embedded foundation was trained. Another list would draw other paths
# per seed.
_WANDER_AVOIDS = (
    "orbit",
    "zigzag",
    "bounce",
    "spiral",
    "figure-eight",
    "swing",
    "square",
    "loop",
    "boomerang",
    "arc",
    "shake",
    "hook",
    "corkscrew",
)


def _wander(rng: np.random.Generator) -> Callable[[Array], dict[str, Array]]:
    """A random path unlike the novel motions that existed at pretraining."""
    return random_path(rng, [_points(NOVEL[name]) for name in _WANDER_AVOIDS])


def _points(motion: Motion) -> Callable[[Array], Array]:
    return lambda t: np.stack([motion.path(t)["x"], motion.path(t)["y"]], axis=1)


def _side(t: Array) -> Array:
    """A coordinate of a walk around a square, with period 1 and values -1..1 (a clipped triangle wave)."""
    return np.clip(2 * _triangle_wave(t + 0.125, 1.0), -1, 1)


_WEIGHTS = dict.fromkeys(DIRECTIONS, 0.07) | {"wander": 0.26, "still": 0.08, "spins": 0.04}


def sample_known(rng: np.random.Generator) -> tuple[Motion, str]:
    """Draw (a motion of KNOWN, its adverb) as the foundation is pretrained on."""
    weights = np.array([_WEIGHTS.get(name, 0.025) for name in KNOWN])
    motion = KNOWN[str(rng.choice(list(KNOWN), p=weights / weights.sum()))]
    adverb = str(rng.choice(list(SPEEDS), p=[0.12, 0.76, 0.12])) if motion.speeds else ""
    return motion, adverb


def at_rest(track: Trajectory, x: float, y: float, angle: float = 0.0) -> Trajectory:
    """Something that stays at (x, y) in the scene, seen by the camera of `track`."""
    one = np.ones(len(track))
    return replace(track, x=one * x, y=one * y, scale=one, angle=one * angle)


def drifting(motion: Motion, way_x: float, way_y: float) -> Motion:
    """The same motion with an additional, uniform camera movement of (way_x, way_y) over the clip."""
    if not (way_x or way_y):
        return motion

    def seen(path: Callable[[Array], dict[str, Array]]) -> Callable[[Array], dict[str, Array]]:
        def follow(t: Array) -> dict[str, Array]:
            p = path(t)
            return p | {
                "camera_x": p.get("camera_x", 0 * t) + way_x * (t - 0.5),
                "camera_y": p.get("camera_y", 0 * t) + way_y * (t - 0.5),
            }

        return follow

    drawn = motion.drawn
    return replace(
        motion, path=seen(motion.path), drawn=None if drawn is None else lambda rng: seen(drawn(rng))
    )
