"""Accuracy of the sprite tracker: measures rendered clips from pixels alone and compares with the truth."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from scipy import ndimage

from datasets.sprites.looks import looks_observed
from datasets.sprites.motions import KNOWN, NOVEL, Trajectory, drifting
from datasets.sprites.render import draw
from datasets.sprites.style import sample_style
from datasets.sprites.track import Track, observe, track
from datasets.sprites.world import BACKGROUND_COLOURS, Scene, background_tones, sample_scene


def softened(clip_FHWC: np.ndarray, blur: float, rng: np.random.Generator) -> np.ndarray:
    """Soften a clip like a decoder: Gaussian of `blur` pixels, noise of 5 grey levels; unchanged at 0."""
    if not blur:
        return clip_FHWC
    soft = ndimage.gaussian_filter(clip_FHWC.astype(np.float32), (0, blur, blur, 0))
    return np.clip(soft + rng.normal(0, 5, clip_FHWC.shape), 0, 255).astype(np.uint8)


@dataclass
class Tally:
    """Correct readings and errors of the clips so far."""

    right: dict[str, list[bool]] = field(default_factory=dict)
    errors: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, scene: Scene, path: Trajectory, seen: Track, size: int) -> None:
        for name, true in (
            ("colour", scene.sprite.colour),
            ("shape", scene.sprite.shape),
            ("texture", scene.sprite.texture),
            ("background", scene.background.colour),
            ("background_kind", scene.background.kind),
        ):
            self.right.setdefault(name, []).append(seen.most(name) == true)
        self.right.setdefault("presence", []).append(seen.present)
        x, y, scale = path.on_screen()
        self.off("position", np.hypot(seen.x - x, seen.y - y) * size)
        self.off("radius", np.abs(seen.radius - scale * scene.sprite.radius) * size)

    def off(self, name: str, error: np.ndarray) -> None:
        self.errors.setdefault(name, []).append(np.atleast_1d(error))

    def shares(self) -> dict[str, float]:
        return {name: float(np.mean(values)) for name, values in self.right.items()}

    def quantile(self, name: str, share: float) -> float:
        return float(np.nanquantile(np.concatenate(self.errors[name]), share))


def tracker_accuracy(
    count: int, *, blur: float = 0.0, seed: int = 0, frames: int = 8, size: int = 64
) -> dict[str, float]:
    """Shares in [0, 1] of `count` clips (cycling through all motions) measured right, and errors in pixels.

    `blur` is that of `softened`. "absence" is the share of `count // 8` empty backgrounds seen as empty
    in every frame.
    """
    rng = np.random.default_rng(seed)
    motions = [*(KNOWN | NOVEL).values()]
    tally = Tally()
    for i in range(count):
        scene = sample_scene(rng)
        path = motions[i % len(motions)].trajectory(frames, rng, scene.sprite.radius)
        tally.add(scene, path, track(softened(draw(scene, path, size), blur, rng)), size)
    for _ in range(max(1, count // 8)):
        dark, light = background_tones(BACKGROUND_COLOURS[str(rng.choice(list(BACKGROUND_COLOURS)))])
        empty = dark + rng.random() * (light - dark) + np.zeros((frames, size, size, 3), np.float32)
        seen = track(softened(empty.astype(np.uint8), blur, rng))
        tally.right.setdefault("absence", []).append(not seen.found.any())
    return tally.shares() | _errors(tally)


def _errors(tally: Tally) -> dict[str, float]:
    return {
        "position error, median": tally.quantile("position", 0.5),
        "position error, 95 %": tally.quantile("position", 0.95),
        "radius error, median": tally.quantile("radius", 0.5),
    }


def looks_accuracy(
    count: int, *, blur: float = 0.0, seed: int = 0, parts: int = 2, frames: int = 8, size: int = 64
) -> dict[str, float]:
    """`tracker_accuracy` of clips in a style of `parts` looks (`style.sample_style`), and of their style.

    Each look has the share of clips in which it is seen exactly when it is present (a tint: the right
    one). The errors are medians over the clips that have the look: "grain error" in grey levels, "tint
    strength error", and "drift error" in frame widths. Drift can be read in only some clips, the share
    "drift measured".
    """
    rng = np.random.default_rng(seed)
    motions = [*(KNOWN | NOVEL).values()]
    tally = Tally()
    for i in range(count):
        style = sample_style(rng, parts)
        scene = replace(sample_scene(rng), style=style)
        motion = drifting(motions[i % len(motions)], *style.drift)
        path = motion.trajectory(frames, rng, scene.sprite.radius)
        observed = observe(softened(draw(scene, path, size), blur, rng))
        seen = looks_observed(observed)
        tally.add(scene, path, observed.track, size)
        for name, said, true in (
            ("outline", seen.outlined, style.outline),
            ("tint", seen.tint, style.tint),
            ("grain", seen.grainy, style.grain > 0),
            ("clutter", seen.cluttered, style.clutter > 0),
            ("second object", seen.second, style.idle is not None),
        ):
            tally.right.setdefault(name, []).append(said == true)
        if style.grain:
            tally.off("grain", np.abs(seen.grain - style.grain))
        if style.tint:
            tally.off("tint strength", np.abs(seen.tint_strength - style.tint_strength))
        if any(style.drift):
            tally.right.setdefault("drift measured", []).append(seen.drift is not None)
            if seen.drift is not None:
                way = path.camera_x[-1] - path.camera_x[0], path.camera_y[-1] - path.camera_y[0]
                tally.off("drift", np.hypot(*np.subtract(seen.drift, way)))
    errors = {
        f"{name} error": tally.quantile(name, 0.5)
        for name in ("grain", "tint strength", "drift")
        if name in tally.errors
    }
    return tally.shares() | _errors(tally) | errors
