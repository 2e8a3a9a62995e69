"""Where a motion comes from: its name, or a trajectory in a JSON file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from datasets.sprites.camera import CAMERA
from datasets.sprites.motions import KNOWN, NOVEL, Array, Motion
from infra.errors import NotFound, UserError


def motion_named(name: str) -> Motion:
    """The motion called `name`: known, novel or of the camera. Raises NotFound."""
    found = KNOWN.get(name) or NOVEL.get(name) or CAMERA.get(name)
    if found is None:
        raise NotFound(
            f"no motion is called {name!r}; choose one of: {', '.join([*KNOWN, *NOVEL, *CAMERA])}, or give a trajectory as a JSON file.",
            code="motion_not_found",
        )
    return found


def _is_number(value: object) -> bool:
    """Whether a JSON value is a number that fits a float (JSON integers may have any length)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def read_trajectory(path: Path | str) -> Motion:
    """A motion from a JSON file: a list of [t, x, y], [t, x, y, scale] or [t, x, y, scale, angle].

    `t` rises between any two values, which are mapped to the clip's start and end. x, y are in frame
    widths with (0, 0) the top left corner; scale multiplies the object's radius; angle is in turns.
    Points are connected linearly. Raises UserError for anything else, naming the point.
    """
    path = Path(path)
    try:
        loaded = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"trajectory {path}: cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise UserError(f"trajectory {path} is not JSON ({error}); expected a list of [t, x, y].") from None
    return trajectory_of(loaded, path.stem, f"trajectory {path}")


def trajectory_of(loaded: object, name: str, said: str) -> Motion:
    """The motion of a trajectory's points, as parsed from JSON.

    Args:
        name: of the motion.
        said: what errors begin with.

    Raises UserError, naming the point.
    """
    if not isinstance(loaded, list) or len(loaded) < 2:
        raise UserError(f"{said}: expected a list of at least two [t, x, y] points.")
    points = []
    for i, entry in enumerate(loaded):
        if isinstance(entry, dict):
            entry = [
                entry.get(k, d)
                for k, d in (("t", None), ("x", None), ("y", None), ("scale", 1), ("angle", 0))
            ]
        if not isinstance(entry, list) or not 3 <= len(entry) <= 5 or not all(map(_is_number, entry)):
            shown = json.dumps(entry)
            shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
            raise UserError(f"{said}, point {i}: {shown} is not [t, x, y(, scale, angle)].")
        points.append([*entry, 1.0, 0.0] if len(entry) == 3 else [*entry, 0.0] if len(entry) == 4 else entry)
    table = np.asarray(points, np.float64)
    if (np.diff(table[:, 0]) <= 0).any():
        raise UserError(f"{said}: t must increase from point to point.")
    if (np.abs(table[:, 1:3] - 0.5) > 1.5).any():
        raise UserError(
            f"{said}: x and y must be in frame widths, 0..1 inside the frame (got up to {np.abs(table[:, 1:3]).max():g})."
        )
    if (table[:, 3] <= 0).any() or (table[:, 3] > 10).any():
        raise UserError(f"{said}: scale must be above 0 and at most 10.")
    start, end = table[0, 0], table[-1, 0]
    columns = dict(zip(("x", "y", "scale", "angle"), table[:, 1:].T, strict=True))

    def follow(t: Array) -> dict[str, Array]:
        at = start + t * (end - start)
        return {key: np.interp(at, table[:, 0], column) for key, column in columns.items()}

    return Motion(name, ("moves",), follow, fixed=True)
