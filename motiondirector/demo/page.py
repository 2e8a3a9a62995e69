"""The demo's report as a page: what went in, what came out, how long each stage took."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, select_autoescape
from PIL import Image

from datasets.decode import decode
from datasets.sprites.track import track
from datasets.video import contact_sheet
from evaluation.pictures import draw_trajectory

if TYPE_CHECKING:
    from infra.registry import Version
    from motiondirector.demo.cast import Taught

TEMPLATES = Path(__file__).resolve().parent


def about_concept(
    concept: Taught, version: Version, stages: list[dict[str, Any]], folder: Path
) -> dict[str, Any]:
    """What the report says of a trained concept."""
    references = sorted((folder / "references").glob(f"{concept.name}-*.mp4"))
    return {
        "name": concept.name,
        "about": concept.about,
        "ref": version.ref,
        "adapter_sha256": version.adapter_sha256,
        "steps": version.metadata["steps"],
        "metrics": version.metrics,
        "train_seconds": next(s["seconds"] for s in stages if s["name"] == f"train {concept.name}"),
        "references": [
            {"file": f"references/{file.name}", "caption": file.with_suffix(".txt").read_text().strip()}
            for file in references
        ],
        "sheet": f"sheets/{concept.name}.png",
    }


def about_clip(row: dict[str, Any]) -> dict[str, Any]:
    """What the report says of one ingested clip."""
    return {
        "source": Path(row["source"]).name,
        "concept": row["concept"],
        "caption": row["caption"],
        "accepted": row["status"] == "accepted",
        "outcome": "; ".join(filter(None, [row["status"], row["size"], row["reason"], *row["warnings"]])),
    }


NAMES = {"base": "base model", "ours": "ours", "coupled": "coupled LoRA (look and motion in one)"}


def write_page(report: dict[str, Any], folder: Path) -> Path:
    """`index.html` and the contact sheets beside the report's videos. The page needs no network.

    Where the tracker finds the sprite, its measured way is drawn over the frames.
    """
    strips: dict[str, str] = {}

    def shown(file: str) -> np.ndarray:
        frames = decode(folder / file).frames_FHWC
        drawn = traced(frames)
        strips[file] = strip_png(drawn)
        return drawn

    for concept in report["concepts"]:
        rows = [(f"reference: {r['caption']}", shown(r["file"])) for r in concept["references"]]
        for video in report["videos"]:
            if video["concept"] == concept["name"]:
                video["rows"] = sorted(
                    [("ours", video["file"]), *video["beside"].items()],
                    key=lambda row: list(NAMES).index(row[0]),
                )
                for kind, file in video["rows"]:
                    rows.append((f"{video['prompt']} (seed {video['seed']}), {NAMES[kind]}", shown(file)))
        contact_sheet(rows).save(folder / concept["sheet"])
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    total = sum(stage["seconds"] for stage in report["stages"]) or 1.0
    page = environment.get_template("page.html.j2").render(
        report=report, total=total, strips=strips, names=NAMES
    )
    target = folder / "index.html"
    target.write_text(page)
    return target


def traced(frames_FHWC: np.ndarray) -> np.ndarray:
    """The frames, twice as large, with the sprite's measured trajectory; as they are where it is not found."""
    square = frames_FHWC.shape[1] == frames_FHWC.shape[2]
    seen = track(frames_FHWC) if square else None
    if seen is None or seen.found.sum() < 2:
        return frames_FHWC
    return draw_trajectory(frames_FHWC, seen)


def strip_png(frames_FHWC: np.ndarray, columns: int = 8, height: int = 72) -> str:
    """Frames spread over time, side by side, as a data URI (small enough to live in the page)."""
    picks = np.unique(np.linspace(0, len(frames_FHWC) - 1, columns).round().astype(int))
    width = max(1, round(height * frames_FHWC.shape[2] / frames_FHWC.shape[1]))
    resample = Image.Resampling.NEAREST if frames_FHWC.shape[1] <= height else Image.Resampling.LANCZOS
    sheet = Image.new("RGB", (len(picks) * (width + 2) - 2, height), "white")
    for column, index in enumerate(picks):
        sheet.paste(
            Image.fromarray(frames_FHWC[index]).resize((width, height), resample), (column * (width + 2), 0)
        )
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
