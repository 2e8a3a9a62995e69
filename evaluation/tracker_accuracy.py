"""How right the sprite tracker is: rendered clips, where everything is known, measured from pixels alone."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from datasets.sprites.motions import KNOWN, NOVEL
from datasets.sprites.render import draw
from datasets.sprites.track import track
from datasets.sprites.world import BACKGROUND_COLOURS, background_tones, sample_scene


def tracker_accuracy(
    count: int, *, blur: float = 0.0, seed: int = 0, frames: int = 8, size: int = 64
) -> dict[str, float]:
    """Shares in [0, 1] of `count` clips (all motions in turn) measured right, and errors in pixels.

    `blur` is the standard deviation in pixels of a Gaussian, with noise of 5 grey levels added, as a decoder would
    soften a frame. "absence" is the share of `count // 8` empty backgrounds seen as empty in every frame.
    """
    rng = np.random.default_rng(seed)
    motions = [*(KNOWN | NOVEL).values()]
    right: dict[str, list[bool]] = {}
    errors: list[np.ndarray] = []
    radii: list[np.ndarray] = []

    def soften(clip: np.ndarray) -> np.ndarray:
        if not blur:
            return clip
        soft = ndimage.gaussian_filter(clip.astype(np.float32), (0, blur, blur, 0)) + rng.normal(
            0, 5, clip.shape
        )
        return np.clip(soft, 0, 255).astype(np.uint8)

    for i in range(count):
        scene = sample_scene(rng)
        path = motions[i % len(motions)].trajectory(frames, rng, scene.sprite.radius)
        seen = track(soften(draw(scene, path, size)))
        for name, true in (
            ("colour", scene.sprite.colour),
            ("shape", scene.sprite.shape),
            ("texture", scene.sprite.texture),
            ("background", scene.background.colour),
            ("background_kind", scene.background.kind),
        ):
            right.setdefault(name, []).append(seen.most(name) == true)
        right.setdefault("presence", []).append(seen.present)
        x, y, scale = path.on_screen()
        errors.append(np.hypot(seen.x - x, seen.y - y) * size)
        radii.append(np.abs(seen.radius - scale * scene.sprite.radius) * size)
    for _ in range(max(1, count // 8)):
        dark, light = background_tones(BACKGROUND_COLOURS[str(rng.choice(list(BACKGROUND_COLOURS)))])
        empty = dark + rng.random() * (light - dark) + np.zeros((frames, size, size, 3), np.float32)
        right.setdefault("absence", []).append(not track(soften(empty.astype(np.uint8))).found.any())
    shares = {name: float(np.mean(values)) for name, values in right.items()}
    position, radius = np.concatenate(errors), np.concatenate(radii)
    return shares | {
        "position error, median": float(np.nanmedian(position)),
        "position error, 95 %": float(np.nanquantile(position, 0.95)),
        "radius error, median": float(np.nanmedian(radius)),
    }
