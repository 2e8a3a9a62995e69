"""The demos' reports as HTML pages: inputs, results, and the time of each stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.video.decode import decode
from datasets.video.writing import contact_sheet
from evaluation.page import environment
from evaluation.pictures import strip_uri, traced
from motiondirector.demo.uses import CLIP, PICTURE_FILE

if TYPE_CHECKING:
    import numpy as np

    from infra.registry import Version
    from motiondirector.demo.cast import Taught

TEMPLATES = Path(__file__).resolve().parent


def about_concept(concept: Taught, version: Version, seconds: float, folder: Path) -> dict[str, Any]:
    """The report's entry for a trained concept. `seconds`: from the training's start to its publication."""
    references = sorted((folder / "references").glob(f"{concept.name}-*.mp4"))
    return {
        "name": concept.name,
        "about": concept.about,
        "ref": version.ref,
        "adapter_sha256": version.adapter_sha256,
        "steps": version.metadata["steps"],
        "metrics": version.metrics,
        "train_seconds": seconds,
        "references": [
            {"file": f"references/{file.name}", "caption": file.with_suffix(".txt").read_text().strip()}
            for file in references
        ],
        "sheet": f"sheets/{concept.name}.png",
    }


def about_clip(row: dict[str, Any]) -> dict[str, Any]:
    """The report's entry for one ingested clip."""
    return {
        "source": Path(row["source"]).name,
        "concept": row["concept"],
        "caption": row["caption"],
        "accepted": row["status"] == "accepted",
        "outcome": "; ".join(filter(None, [row["status"], row["size"], row["reason"], *row["warnings"]])),
    }


USES_SHEET = "sheets/uses.png"
WITHOUT = "without the motion"
NAMES = {"base": "base model", "ours": "ours", "coupled": "coupled LoRA (look and motion in one)"}


def write_page(report: dict[str, Any], folder: Path) -> Path:
    """Write `index.html` and the contact sheets beside the report's videos. The page needs no network.

    If the tracker finds the sprite, its measured path is drawn over the frames.
    """
    strips: dict[str, str] = {}

    def shown(file: str) -> np.ndarray:
        frames = decode(folder / file).frames_FHWC
        drawn = traced(frames)
        strips[file] = strip_uri(drawn, height=72)
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
    rows = []
    for video in report["uses"]:
        video["rows"] = [("base", video["beside"]["base"]), ("ours", video["file"])]
        if video["source"] == "clip":
            video["clip"] = f"references/{CLIP}-1.mp4"
            rows.append((f"{video['name']}: the clip", shown(video["clip"])))
        for kind, file in video["rows"]:
            rows.append((f"{video['name']}, {WITHOUT if kind == 'base' else 'with the motion'}", shown(file)))
    if rows:
        contact_sheet(rows).save(folder / USES_SHEET)
    return _write(
        "page.html.j2",
        report,
        folder,
        strips=strips,
        names=NAMES,
        without=WITHOUT,
        uses_sheet=USES_SHEET,
        picture=PICTURE_FILE,
    )


def write_batch_page(report: dict[str, Any], folder: Path) -> Path:
    """Write the batch demo's `index.html`: a row per concept with strips of its clip and of a sample."""

    def strip(file: Path) -> str | None:
        return strip_uri(traced(decode(file).frames_FHWC), height=48) if file.is_file() else None

    names = [row["concept"] for row in report["concepts"]]
    clips = {name: strip(folder / "clips" / f"{name}.mp4") for name in names}
    samples = {name: strip(folder / "evaluations" / name / "samples" / "001.mp4") for name in names}
    return _write("batch.html.j2", report, folder, clips=clips, samples=samples)


def _write(template: str, report: dict[str, Any], folder: Path, **shown: Any) -> Path:
    """Render `index.html` from the report and `shown`."""
    total = sum(stage["seconds"] for stage in report["stages"]) or 1.0
    target = folder / "index.html"
    target.write_text(
        environment(TEMPLATES).get_template(template).render(report=report, total=total, **shown)
    )
    return target
