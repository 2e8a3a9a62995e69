"""Reads an image of a stranger in a child process with bounds, as `datasets.ingest.confined` does clips.

    still = still_confined(path, "the image")

This process never opens the file as an image. It loads the pixels that the child wrote.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from datasets.ingest.confined import (
    DOING,
    FILES,
    JOB,
    OUT_OF_MEMORY,
    REPORT,
    Bounds,
    bound,
    end_with_parent,
    ended,
    is_out_of_memory,
    run_child,
)
from datasets.video.still import Still, UnreadableImage, read_still
from infra.errors import SystemFailure
from infra.storage.stored import Damaged, parse

PIXELS = "pixels.npy"
BOUNDS = Bounds(seconds=30.0, cpu_seconds=20, memory=2 << 30, written=1 << 28)  # one image of 8192x8192 fits


@dataclass(frozen=True)
class Report:
    """What the child found: notes on the picture it wrote, or why there is none."""

    notes: tuple[str, ...] = ()
    refused: str | None = None
    code: str | None = None


def still_confined(path: Path, name: str, bounds: Bounds = BOUNDS) -> Still:
    """Read an image file. Blocks for half a second and more.

    Args:
        name: how errors and notes call it.

    Raises:
        UnreadableImage: as `read_still`, or the file ended the child.
        SystemFailure: the child cannot work here.
    """
    with tempfile.TemporaryDirectory(prefix="still-") as created:
        folder = Path(created)
        (folder / FILES).symlink_to(path.absolute())
        (folder / JOB).write_text(json.dumps({"name": name}))
        code = run_child(folder, bounds.seconds, lambda: None, __name__)
        if code != 0:
            error = ended(folder, code, bounds)
            if isinstance(error, SystemFailure):
                raise error
            raise UnreadableImage(
                f"{name} takes too much to read; scale it down, or save it as an ordinary png."
            )
        try:
            report = parse(Report, (folder / REPORT).read_bytes())
        except Damaged as error:
            raise SystemFailure(f"the report on an image is damaged ({error}).") from None
        if report.refused is not None:
            raise UnreadableImage(report.refused, code=report.code)
        return Still(np.load(folder / PIXELS, allow_pickle=False), report.notes)


def main(folder: Path) -> None:
    """In the child: read the image, write its pixels and a report."""
    end_with_parent()
    bound(BOUNDS)
    name = str(json.loads((folder / JOB).read_text())["name"])
    (folder / DOING).write_text(name)
    try:
        still = read_still(folder / FILES, name)
        np.save(folder / PIXELS, still.picture_HWC)
        report = Report(still.notes)
    except UnreadableImage as error:
        report = Report(refused=error.message, code=error.code)
    except Exception as error:
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(OUT_OF_MEMORY if is_out_of_memory(error) else 1)
    (folder / REPORT).write_text(json.dumps(asdict(report)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
