"""Draws references whose sprite moves like a point of a real clip: `motiondirector sprites trace` as a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.sprites.captions import canonical
from datasets.sprites.motion_sources import read_trajectory
from datasets.sprites.motions import Motion
from datasets.sprites.render import render_clip
from datasets.sprites.trace import Trace, trace_clip, write_trajectory
from datasets.sprites.world import appearances
from datasets.video.decode import decode
from datasets.video.writing import contact_sheet, encode_mp4
from evaluation.metrics.trajectories import positions, trajectory_agreement
from evaluation.pictures import draw_trajectory, traced
from infra.errors import UserError
from infra.files import atomic_file, explained_os_errors
from infra.registry import DEFAULT_REGISTRY
from motiondirector.api.generate import GenerateConfig, generate
from motiondirector.sprites.config import TraceConfig
from motiondirector.sprites.render import Rendered, write_captions

CELL = 96  # pixels: width of a source's frame before it is enlarged in the picture


@dataclass(frozen=True)
class Places:
    """The position of a point in each frame, in frame widths."""

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Traced:
    """The path found in a clip, and the references drawn from it.

    Args:
        trajectory: the path as a JSON file, for `sprites render`.
        rows: (file or concept, caption or prompt, agreement with the path: 1 is exact).
    """

    found: Trace
    trajectory: Path
    picture: Path
    rows: list[tuple[str, str, float]]

    def __str__(self) -> str:
        frames, extent = len(self.found.pixels_F2), self.found.extent
        return f"tracked in {self.found.seen} of {frames} frames, over {extent:.0%} of the diagonal"


def trace(
    clip: Path, to: Path, config: TraceConfig | None = None, *, registry: str = DEFAULT_REGISTRY
) -> Traced:
    """Draw sprite references that move like a point of a real clip.

    Args:
        clip: any video file that can be decoded.
        to: folder for NAME.json, the reference clips, captions.csv and trace.png; created if missing.
        config: the point, the appearances, the size; the command's options.
        registry: folder or s3:// URI of `config.concept`.

    Raises:
        UserError: the clip cannot be decoded, the point is outside it, rests or gets lost, or there is no such concept.
    """
    config = config or TraceConfig()
    point = None if config.point is None else read_point(config.point)
    source = decode(clip)
    try:
        found = trace_clip(source.frames_FHWC, point)
    except UserError as error:
        raise UserError(f"{clip}: {error.message}") from None
    with explained_os_errors(f"writing to {to}"):
        to.mkdir(parents=True, exist_ok=True)
        path = to / f"{config.name or clip.stem}.json"
        write_trajectory(found, source.times_F, path)
        motion = replace(read_trajectory(path), phrases=(config.words,))
        clips, videos = drawn(motion, to, path.stem, config)
    shown = [(one.path.name, one.caption, video) for one, video in zip(clips, videos, strict=True)]
    pictures = [
        (f"{clip.name}, the tracked point", drawn_on(source.frames_FHWC, found)),
        (f"traced reference: {clips[0].caption}", traced(videos[0])),
    ]
    if config.concept is not None:
        prompt = canonical(appearances(config.appearances + 1, config.seed)[-1], motion)
        chosen = GenerateConfig(concept=config.concept, seed=config.seed)
        video = generate(prompt, chosen, registry=registry).frames_FHWC
        pictures.append((f"{config.concept}: {prompt}", traced(video)))
        shown.append((config.concept, prompt, video))
    picture = to / "trace.png"
    with explained_os_errors(f"writing to {to}"), atomic_file(picture) as temporary:
        contact_sheet(pictures).save(temporary, format="PNG")
    rows = [(name, said, trajectory_agreement(positions(v), found.path_F2)) for name, said, v in shown]
    return Traced(found, path, picture, rows)


def drawn(
    motion: Motion, to: Path, name: str, config: TraceConfig
) -> tuple[Sequence[Rendered], list[np.ndarray]]:
    """Write the reference clips and their captions. Returns them and the clips' frames."""
    scenes = appearances(config.appearances, config.seed)
    rows = [Rendered(to / f"{name}-{i:03d}.mp4", canonical(scene, motion)) for i, scene in enumerate(scenes)]
    videos = [
        render_clip(scene, motion, config.frames, config.size, config.seed + i)
        for i, scene in enumerate(scenes)
    ]
    for row, video in zip(rows, videos, strict=True):
        encode_mp4(video, config.fps, row.path, metadata={"comment": row.caption})
    write_captions(to, rows)
    return rows, videos


def read_point(text: str) -> tuple[float, float]:
    """`120,80` in pixels. Raises UserError."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"--point {text!r}: expected x,y in pixels of the first frame, such as 120,80."
        ) from None
    return x, y


def drawn_on(frames_FHWC: np.ndarray, found: Trace) -> np.ndarray:
    """The clip's frames that the path covers, with the path drawn on them."""
    shown = slice(found.first, found.first + len(found.path_F2))
    x, y = (found.pixels_F2[shown] / frames_FHWC.shape[2]).T
    picks = np.unique(np.linspace(0, len(found.path_F2) - 1, 8).round().astype(int))
    # as small as a cell of the picture, so that the line has the same width as on the sprites
    height = round(CELL * frames_FHWC.shape[1] / frames_FHWC.shape[2])
    small = [Image.fromarray(frame).resize((CELL, height)) for frame in frames_FHWC[shown][picks]]
    return draw_trajectory(np.stack([np.asarray(frame) for frame in small]), Places(x[picks], y[picks]))
