"""Writes a report as one self-contained HTML file: the table, the videos side by side, and every value.

Sprite clips have their measured trajectories drawn over the frames (datasets/sprites/track.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, select_autoescape

from evaluation.evaluate import Measured, Report
from evaluation.metrics.sprite_tracking import tracked
from evaluation.pictures import animation_uri, draw_trajectory, strip_uri
from evaluation.report import ARROWS, digits, finite, remarks, rows
from infra.files import atomic_file

TEMPLATES = Path(__file__).resolve().parent
SHOWN_PROMPTS = 24  # prompts shown with pictures; report.json has all values
SHOWN_OPEN = 8  # open prompts
SHOWN_REFERENCES = 6
HEADLINES = 4  # metrics whose values are shown next to the videos


def environment(templates: Path = TEMPLATES) -> Environment:
    """The environment that renders a folder's templates, with everything escaped."""
    return Environment(
        loader=FileSystemLoader(templates),
        autoescape=select_autoescape(["j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_page(
    report: Report, content: Mapping[str, Any], path: Path, *, fps: float, sprites: bool, height: int = 72
) -> Path:
    """Write the page.

    Args:
        content: `evaluation.report.as_json` of the report, with `title` and `notes`.
        fps: frame rate of the animations.
        sprites: whether the clips are of the sprite world, so that the tracker can measure them.
        height: of a frame in the page, in pixels.
    """

    def shown(video_FHWC: np.ndarray) -> dict[str, str]:
        picture, sharp = video_FHWC, 2 * height  # dense screens use two pixels per CSS pixel
        if sprites:
            picture = draw_trajectory(
                video_FHWC, tracked(video_FHWC), enlarge=max(1, round(sharp / video_FHWC.shape[1]))
            )
        return {
            "strip": strip_uri(picture, height=sharp),
            "animation": animation_uri(video_FHWC, fps, height),
        }

    beside = headlines(report)
    per_prompt = len(report.seeds)
    prompts = []
    for number, prompt in enumerate(report.prompts[:SHOWN_PROMPTS]):
        index = number * per_prompt
        strips = []
        for contender in report.contenders:
            case = report.cases[contender.name][index]
            values = [
                (measured.title, f"{value:.{digits(measured.range)}f}")
                for measured in beside
                if (value := value_of(report, measured, contender.name, index)) is not None
            ]
            strips.append({"name": contender.name, "values": values, **shown(case.video_FHWC)})
        prompts.append({"text": prompt, "seed": report.seeds[0], "strips": strips})
    opened = [
        {
            "text": prompt,
            "seed": report.seeds[0],
            "strips": [
                {
                    "name": c.name,
                    "values": [],
                    **shown(report.open_cases[c.name][number * per_prompt].video_FHWC),
                }
                for c in report.contenders
            ],
        }
        for number, prompt in enumerate(report.open_prompts[:SHOWN_OPEN])
    ]
    references = [
        {"caption": reference.caption, **shown(reference.video_FHWC)}
        for reference in report.references[:SHOWN_REFERENCES]
    ]
    page = (
        environment()
        .get_template("page.html.j2")
        .render(
            report=content,
            contenders=report.contenders,
            rows=[row for row in rows(content) if row.measured],
            remarks=remarks(content),
            prompts=prompts,
            hidden_prompts=len(report.prompts) - len(prompts),
            opened=opened,
            references=references,
            hidden_references=len(report.references) - len(references),
            value_titles=[(m.title, ARROWS[m.better]) for m in shown_values(report)],
            values=value_rows(report),
            sprites=sprites,
            height=height,
        )
    )
    with atomic_file(path) as temporary:
        temporary.write_text(page)
    return path


def headlines(report: Report) -> list[Measured]:
    """The metrics shown next to the videos: the first with a value per case, without single attributes."""
    each = len(report.prompts) * len(report.seeds)
    whole = [m for m in report.measured if "," not in m.title and not m.open]
    return [m for m in whole if any(len(s.values) == each and s.found for s in m.scores.values())][:HEADLINES]


def value_of(report: Report, measured: Measured, contender: str, index: int) -> float | None:
    """The value of one case; None if there is none, or if the metric is of groups or of open prompts."""
    values = measured.scores[contender].values
    if measured.open or len(values) != len(report.prompts) * len(report.seeds):
        return None
    return finite(values)[index]


def shown_values(report: Report) -> list[Measured]:
    """The metrics in the table of all values: those of the prompts' videos with at least one value."""
    return [m for m in report.measured if not m.open and any(s.found for s in m.scores.values())]


def value_rows(report: Report) -> list[dict[str, Any]]:
    """Rows for the collapsible table: one per case and contender, with a text for each metric."""
    shown = shown_values(report)
    made = []
    for index in range(len(report.prompts) * len(report.seeds)):
        prompt, seed = divmod(index, len(report.seeds))
        for contender in report.contenders:
            texts = []
            for measured in shown:
                value = value_of(report, measured, contender.name, index)
                texts.append("" if value is None else f"{value:.{digits(measured.range)}f}")
            made.append(
                {
                    "prompt": report.prompts[prompt],
                    "seed": report.seeds[seed],
                    "contender": contender.name,
                    "values": texts,
                }
            )
    return made
