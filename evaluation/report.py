"""A report as numbers: the table of metrics and contenders, report.json, and what is published with a version.

The interval beside a mean is a 95 % Student t interval. What it is over: a prompt's seeds are averaged first, for they
are not independent, and the interval is over prompts; with a single prompt it is over its seeds. A metric that compares
groups instead of single videos (diversity) has it over its groups. Fewer than two of these: no interval.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

from evaluation.evaluate import Measured, Report
from evaluation.store import adapters_sha256
from infra.files import atomic_file

CONFIDENCE = 0.95
INTERVAL = "95 % Student t interval over prompts (a prompt's seeds averaged first)"
ARROWS = {"higher": "↑", "lower": "↓"}


@dataclass(frozen=True)
class Cell:
    """One metric of one contender. `half` is half the interval's width; None where there is none."""

    mean: float | None
    half: float | None
    count: int  # values the mean is of
    best: bool = False
    digits: int = 3

    @property
    def text(self) -> str:
        """ "0.812 ± 0.031", "0.812", or "–" when nothing could be measured."""
        if self.mean is None:
            return "–"
        around = "" if self.half is None else f" ± {self.half:.{self.digits}f}"
        return f"{self.mean:.{self.digits}f}{around}"


@dataclass(frozen=True)
class Row:
    """One metric, a cell a contender, in the contenders' order."""

    metric: str
    title: str
    better: Literal["higher", "lower"]
    cells: tuple[Cell, ...]

    @property
    def arrow(self) -> str:
        return ARROWS[self.better]


def table(report: Report) -> list[Row]:
    """The rows of the report's table; of each the best mean is marked."""
    rows = []
    for measured in report.measured:
        cells = [cell(report, measured, contender.name) for contender in report.contenders]
        rows.append(Row(measured.name, measured.title, measured.better, mark_best(cells, measured.better)))
    return rows


def cell(report: Report, measured: Measured, contender: str) -> Cell:
    """Mean and interval of one metric of one contender."""
    values = finite(measured.scores[contender].values)
    found = [value for value in values if value is not None]
    units = found
    if len(values) == len(report.prompts) * len(report.seeds) and len(report.prompts) > 1:
        per_prompt = [values[i : i + len(report.seeds)] for i in range(0, len(values), len(report.seeds))]
        units = [
            float(np.mean(kept)) for group in per_prompt if (kept := [v for v in group if v is not None])
        ]
    mean = float(np.mean(found)) if found else None
    return Cell(mean, half_width(units), len(found), digits=digits(measured.range))


def half_width(units: Sequence[float]) -> float | None:
    """Half the width of the t interval of a mean; None for fewer than two values."""
    if len(units) < 2:
        return None
    error = float(np.std(units, ddof=1)) / math.sqrt(len(units))
    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(units) - 1)) * error


def mark_best(cells: Sequence[Cell], better: str) -> tuple[Cell, ...]:
    """The cells, those that share the best mean as it is printed marked. One contender alone is not the best."""
    means = [round(c.mean, c.digits) for c in cells if c.mean is not None]
    if len(cells) < 2 or not means:
        return tuple(cells)
    best = max(means) if better == "higher" else min(means)
    return tuple(
        Cell(c.mean, c.half, c.count, c.mean is not None and round(c.mean, c.digits) == best, c.digits)
        for c in cells
    )


def digits(bounds: tuple[float, float]) -> int:
    """Decimals to print: three for scores of about 0 to 1, two for percent-like ones."""
    return 3 if bounds[1] - bounds[0] <= 10 else 2


def finite(values: Iterable[float | None]) -> list[float | None]:
    """The values as plain floats; what is no finite number was not measured."""
    return [None if v is None or not math.isfinite(v) else float(v) for v in values]


def as_json(report: Report, **more: Any) -> dict[str, Any]:
    """The whole report as JSON: settings, the table, and every value. `more` goes in front (concept, data, notes)."""
    rows = {row.metric: row for row in table(report)}
    metrics = {}
    for measured in report.measured:
        cells = zip(report.contenders, rows[measured.name].cells, strict=True)
        metrics[measured.name] = {
            "title": measured.title,
            "better": measured.better,
            "range": finite(measured.range),
            "scores": {
                contender.name: {
                    "mean": one.mean,
                    "ci95": one.half,
                    "count": one.count,
                    "values": finite(measured.scores[contender.name].values),
                }
                for contender, one in cells
            },
        }
    return {
        **more,
        "foundation": {"name": report.foundation, "fingerprint": report.fingerprint},
        "generation": report.generation.facts(),
        "seeds": list(report.seeds),
        "prompts": list(report.prompts),
        "prompts_sha256": report.prompts_sha256,
        "cases": "values are in the order prompt by prompt, each prompt's seeds in turn",
        "interval": INTERVAL,
        "contenders": {
            contender.name: {
                "title": contender.title,
                "adapters_sha256": adapters_sha256(contender.adapters),
            }
            for contender in report.contenders
        },
        "references": [reference.caption for reference in report.references],
        "metrics": metrics,
    }


def published_scores(told: Mapping[str, Any]) -> dict[str, Any]:
    """What of `as_json` goes into the registry, under the key `evaluation` of the version's metrics."""
    return {
        "scores": {
            name: {
                contender: {key: score[key] for key in ("mean", "ci95", "count")}
                for contender, score in metric["scores"].items()
            }
            for name, metric in told["metrics"].items()
        },
        "better": {name: metric["better"] for name, metric in told["metrics"].items()},
        "contenders": {name: one["title"] for name, one in told["contenders"].items()},
        "prompts": len(told["prompts"]),
        "prompts_sha256": told["prompts_sha256"],
        "seeds": told["seeds"],
        "generation": told["generation"],
        "foundation_fingerprint": told["foundation"]["fingerprint"],
        "data_sha256": told.get("data_sha256"),
        "interval": told["interval"],
        "measured_at": told.get("measured_at"),
    }


def write_json(told: Mapping[str, Any], path: Path) -> None:
    """Write report.json whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
