"""The demo's clips: motions that are drawn, and the real clips of the repository."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from infra.paths import ROOT
from motiondirector.demo.uses import CAPTION, CLIP, LOOK

if TYPE_CHECKING:
    from motiondirector.demo.cast import Taught

REAL = "real"  # the concept of the real clips in the repository


def draw_clips(command: Callable[..., str], folder: Path, concepts: Sequence[Taught], *, uses: bool) -> Path:
    """Draw the clips of the concepts, and of the look that is learned. Returns a manifest of these and the real clips.

    Args:
        command: runs a `motiondirector` command (`Stage.command`).
        uses: whether a look is learned.
    """
    folders = {concept.name: folder / concept.name for concept in concepts}
    for concept in concepts:
        command(
            *("sprites", "render", "--motion", concept.name, "--appearances", str(concept.references)),
            *("--to", str(folders[concept.name])),
            quiet=True,
        )
    captions = {}
    if uses:
        folders[CLIP], captions[CLIP] = folder / CLIP, CAPTION
        command(
            *("sprites", "render", "--motion", "right", "--prompt", LOOK, "--to", str(folders[CLIP])),
            quiet=True,
        )
    folders[REAL] = ROOT / "assets/clips"
    return write_manifest(folder / "clips.csv", folders, captions)


def write_manifest(path: Path, folders: Mapping[str, Path], captions: Mapping[str, str]) -> Path:
    """Write one manifest for `ingest` from folders with a captions.csv each, by concept. Returns its path.

    Args:
        captions: of concepts whose clips get this one instead.
    """
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "caption", "concept"))
        for concept, folder in folders.items():
            with (folder / "captions.csv").open(newline="") as listed:
                for row in csv.DictReader(listed):
                    caption = captions.get(concept, row["caption"])
                    rows.writerow(((folder / row["file"]).absolute(), caption, concept))
    return path
