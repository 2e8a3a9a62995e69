"""Camera movements that the foundation was not pretrained on: cinematic shots, which customization teaches.

It knows pans to the sides, zooms and dollies (KNOWN in motions.py). Lengths in frame widths, y down.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from datasets.sprites.motions import TURN, Array, Motion


def _shot(name: str, phrase: str, depth: float = 1.0, **paths: Callable[[Array], Array]) -> Motion:
    return Motion(name, (phrase,), lambda t: {key: path(t) for key, path in paths.items()}, depth)


CAMERA: dict[str, Motion] = {
    shot.name: shot
    for shot in (
        _shot("tilt", "while the camera pans up", camera_y=lambda t: 0.4 * (0.5 - t)),
        _shot(
            "crane",
            "while the camera pans up and zooms out",
            camera_y=lambda t: 0.4 * (0.5 - t),
            zoom=lambda t: 1.3 - 0.5 * t,
        ),
        _shot("whip-pan", "while the camera pans right and left", camera_x=lambda t: 0.2 * np.sin(TURN * t)),
        _shot(
            "camera-orbit",
            "while the camera orbits",
            camera_x=lambda t: 0.18 * np.cos(TURN * t),
            camera_y=lambda t: 0.18 * np.sin(TURN * t),
        ),
        _shot(
            "zoom-pulse", "while the camera zooms in and out", zoom=lambda t: 0.8 + 0.5 * np.sin(np.pi * t)
        ),
        # The object keeps its size while the background behind it grows (Hitchcock's shot).
        _shot(
            "dolly-zoom",
            "while the camera dollies and zooms",
            zoom=lambda t: 0.75 + 0.6 * t,
            scale=lambda t: 1 / (0.75 + 0.6 * t),
        ),
    )
}
