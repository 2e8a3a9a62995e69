"""Fixtures that make videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sample_videos import moving_picture, write_animation, write_video


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """`make_video("a.mp4", num_frames=24, height=180, width=320, fps=12, seed=0, codec=...)` -> path."""

    def make(name: str, num_frames=24, height=180, width=320, seed=0, step=5, **kwargs) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = moving_picture(num_frames, height, width, seed, step)
        if path.suffix in (".gif", ".webp"):
            return write_animation(path, frames, **kwargs)
        return write_video(path, frames, **kwargs)

    return make


@pytest.fixture
def moving() -> Callable[..., np.ndarray]:
    """`moving(num_frames, height, width, seed=0, step=5)` -> frames."""
    return moving_picture
