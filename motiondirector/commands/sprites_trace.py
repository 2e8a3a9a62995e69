"""`motiondirector sprites trace`: references whose sprite goes the way of a point of a real clip."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.errors import UserError
from motiondirector.cli import ConfigFile

if TYPE_CHECKING:
    import numpy as np

    from datasets.sprites.trace import Trace


CELL = 96  # pixels: width of a source's frame before it is enlarged in the picture


@dataclass(frozen=True)
class Places:
    """Where a point is in each frame, in frame widths."""

    x: np.ndarray
    y: np.ndarray


def trace(
    clip: Annotated[Path, typer.Argument(help="A real clip: any video file that can be decoded.")],
    to: Annotated[
        Path,
        typer.Option(
            help="Folder for NAME.json, the reference clips, captions.csv and trace.png. Made if missing."
        ),
    ],
    point: Annotated[
        str | None,
        typer.Option(
            help="Follow this point, x,y in pixels of the first frame. Default: the tracklet that moves most and longest."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the motion and its files. Default: the clip's.")
    ] = None,
    words: Annotated[str, typer.Option(help="Words for the motion in captions.")] = "moves",
    appearances: Annotated[int, typer.Option(help="So many reference clips.", min=1, max=100)] = 4,
    concept: Annotated[
        str | None,
        typer.Option(
            help="A concept trained on such references: a video of it joins the picture, NAME or NAME@VERSION."
        ),
    ] = None,
    registry: Annotated[
        str, typer.Option(help="Registry of --concept.", envvar="MOTIONDIRECTOR_REGISTRY")
    ] = "runs/registry",
    frames: Annotated[int, typer.Option(help="Frames of a reference clip.", min=5, max=256)] = 8,
    size: Annotated[
        int, typer.Option(help="Side of the square frame in pixels, even.", min=16, max=1024)
    ] = 64,
    fps: Annotated[float, typer.Option(help="Frames a second of the references.", min=1, max=120)] = 8,
    seed: Annotated[int, typer.Option(help="Decides appearances, and the noise of the concept's video.")] = 0,
    config: ConfigFile = None,
) -> None:
    """Make sprite references that move as a point of a real clip does.

    The way is moved to the middle of the frame and scaled to half of its width. A camera that follows the object makes
    the background the one that moves: name a point of what you mean with --point.

      motiondirector sprites trace assets/clips/fox_running.mp4 --to fox --words "runs"

      motiondirector ingest fox --captions fox/captions.csv --concept fox --to data

      motiondirector train --concept fox --data data

      motiondirector sprites trace assets/clips/fox_running.mp4 --to fox --words "runs" --concept fox

    `sprites render --trajectory fox/fox_running.json` draws the same way in any other appearance.
    """
    from dataclasses import replace

    from datasets.decode import decode
    from datasets.sprites.captions import canonical
    from datasets.sprites.motions import read_trajectory
    from datasets.sprites.render import render_clip
    from datasets.sprites.trace import trace_clip, write_trajectory
    from datasets.sprites.world import appearances as draw_appearances
    from datasets.video import contact_sheet, encode_mp4
    from evaluation.metrics.trajectories import trajectory_agreement
    from evaluation.pictures import traced
    from infra.files import atomic_file, explained_os_errors

    if size % 2:
        raise UserError(f"--size {size} is odd; mp4 needs an even side.")
    where = None if point is None else _point(point)
    source = decode(clip)
    try:
        found = trace_clip(source.frames_FHWC, where)
    except UserError as error:
        raise UserError(f"{clip}: {error.message}") from None
    called = name or clip.stem
    scenes = draw_appearances(appearances, seed)
    with explained_os_errors(f"writing to {to}"):
        to.mkdir(parents=True, exist_ok=True)
        path = to / f"{called}.json"
        write_trajectory(found, source.times_F, path)
        motion = replace(read_trajectory(path), phrases=(words,))
        rows = [(f"{called}-{i:03d}.mp4", canonical(scene, motion)) for i, scene in enumerate(scenes)]
        videos = [render_clip(scene, motion, frames, size, seed + i) for i, scene in enumerate(scenes)]
        for (file, caption), video in zip(rows, videos, strict=True):
            encode_mp4(video, fps, to / file, metadata={"comment": caption})
        with atomic_file(to / "captions.csv") as temporary, temporary.open("w", newline="") as stream:
            csv.writer(stream).writerows([("file", "caption"), *rows])
    table = Table("clip", "what", "fidelity to the way", title=escape(f"{clip}: {_said(found)}"))

    def fidelity(video: np.ndarray) -> str:
        return f"{trajectory_agreement(_seen(video), found.way_F2):.3f}"

    for (file, caption), video in zip(rows, videos, strict=True):
        table.add_row(escape(file), escape(caption), fidelity(video))
    picture = [
        (f"{clip.name}, the point that is followed", drawn_on(source.frames_FHWC, found)),
        (f"traced reference: {rows[0][1]}", traced(videos[0])),
    ]
    if concept is not None:
        prompt = canonical(draw_appearances(appearances + 1, seed)[-1], motion)
        result = _generated(concept, prompt, registry, seed)
        picture.append((f"{concept}: {prompt}", traced(result)))
        table.add_row(escape(concept), escape(prompt), fidelity(result))
    sheet = contact_sheet(picture)
    with explained_os_errors(f"writing to {to}"), atomic_file(to / "trace.png") as temporary:
        sheet.save(temporary, format="PNG")
    console = Console()
    console.print(table)
    console.print(f"way: {escape(str(path))}, picture: {escape(str(to / 'trace.png'))}", highlight=False)


def _point(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"--point {text!r}: expected x,y in pixels of the first frame, such as 120,80."
        ) from None
    return x, y


def _said(found: Trace) -> str:
    return (
        f"followed in {found.seen} of {len(found.pixels_F2)} frames, over {found.extent:.0%} of the diagonal"
    )


def _seen(video_FHWC: np.ndarray) -> np.ndarray:
    from evaluation.metrics.trajectories import positions

    return positions(video_FHWC)


def drawn_on(frames_FHWC: np.ndarray, found: Trace) -> np.ndarray:
    """The clip's frames that the way covers, with the way drawn on them."""
    import numpy as np
    from PIL import Image

    from evaluation.pictures import draw_trajectory

    shown = slice(found.first, found.first + len(found.way_F2))
    x, y = (found.pixels_F2[shown] / frames_FHWC.shape[2]).T
    picks = np.unique(np.linspace(0, len(found.way_F2) - 1, 8).round().astype(int))
    # as small as a picture's cell is, so that the line is as wide as on the sprites
    height = round(CELL * frames_FHWC.shape[1] / frames_FHWC.shape[2])
    small = [Image.fromarray(frame).resize((CELL, height)) for frame in frames_FHWC[shown][picks]]
    return draw_trajectory(np.stack([np.asarray(frame) for frame in small]), Places(x[picks], y[picks]))


def _generated(concept: str, prompt: str, registry: str, seed: int) -> np.ndarray:
    """A video of the trained concept."""
    from datasets.decode import decode
    from motiondirector.commands.generate import in_process, read_body

    mp4, *_ = in_process(
        read_body(model=f"foundation:{concept}", prompt=prompt, seed=seed), registry=registry
    )
    return decode(mp4).frames_FHWC
