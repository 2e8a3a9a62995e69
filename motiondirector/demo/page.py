"""The demo's report as a page: what went in, what came out, how long each stage took."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, select_autoescape
from PIL import Image

TEMPLATES = Path(__file__).resolve().parent


def write_page(report: dict[str, Any], folder: Path) -> Path:
    """`index.html` beside the report's videos. It needs no network: pictures are files of the same folder."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    total = sum(stage["seconds"] for stage in report["stages"]) or 1.0
    page = environment.get_template("page.html.j2").render(report=report, total=total)
    target = folder / "index.html"
    target.write_text(page)
    return target


def strip_png(frames_FHWC: np.ndarray, columns: int = 8, height: int = 96) -> str:
    """Frames spread over time, side by side, as a data URI (small enough to live in the page)."""
    picks = np.unique(np.linspace(0, len(frames_FHWC) - 1, columns).round().astype(int))
    width = max(1, round(height * frames_FHWC.shape[2] / frames_FHWC.shape[1]))
    resample = Image.Resampling.NEAREST if frames_FHWC.shape[1] < height else Image.Resampling.LANCZOS
    sheet = Image.new("RGB", (len(picks) * (width + 2) - 2, height), "white")
    for column, index in enumerate(picks):
        sheet.paste(
            Image.fromarray(frames_FHWC[index]).resize((width, height), resample), (column * (width + 2), 0)
        )
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
