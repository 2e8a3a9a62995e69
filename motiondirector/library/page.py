"""A page that shows every concept of the library in motion: one HTML file that needs no network."""

from __future__ import annotations

from pathlib import Path

from datasets.video.decode import decode
from evaluation.page import environment
from evaluation.pictures import animation_uri
from infra.files import atomic_file
from motiondirector.library.library import library

TEMPLATES = Path(__file__).resolve().parent
HEIGHT = 128  # of a preview, in pixels


def write_page(out: Path) -> Path:
    """Write the page and return its path. Raises UserError if the file cannot be written."""
    concepts = []
    for concept in library():
        video = decode(concept.preview, name=concept.name)
        concepts.append(
            {
                "name": concept.name,
                "about": concept.about,
                "fidelity": concept.fidelity,
                "animation": animation_uri(video.frames_FHWC, video.fps, HEIGHT),
            }
        )
    text = environment(TEMPLATES).get_template("page.html.j2").render(concepts=concepts, height=HEIGHT)
    with atomic_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return out
