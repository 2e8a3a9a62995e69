"""A report as numbers: the table of metrics and contenders, report.json, and the published part.

A mean has a 95 % Student t interval over prompts. A prompt's seeds are averaged first, because they are
not independent. With a single prompt the interval is over its seeds. For a metric of groups (diversity)
it is over the groups. Fewer than two values give no interval.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from evaluation.evaluate import Measured, Report
from evaluation.store import adapters_sha256
from infra.files import atomic_file

if TYPE_CHECKING:
    from infra.registry import Version

CONFIDENCE = 0.95
INTERVAL = "95 % Student t interval over prompts (a prompt's seeds averaged first)"
SUMMARY_INTERVAL = "95 % Student t interval over concepts (a concept's values averaged first)"
FILES = "files"  # of a published evaluation: {name: {"sha256", "size"}} in the registry's objects
ARROWS = {"higher": "↑", "lower": "↓"}


@dataclass(frozen=True)
class Cell:
    """One metric of one contender. `half` is half the interval's width, or None without an interval."""

    mean: float | None
    half: float | None
    count: int  # number of values in the mean
    digits: int = 3
    best: bool = False

    @property
    def text(self) -> str:
        """The mean as text: "0.812 ± 0.031", "0.812", or "–" if nothing could be measured."""
        if self.mean is None:
            return "–"
        around = "" if self.half is None else f" ± {self.half:.{self.digits}f}"
        return f"{self.mean:.{self.digits}f}{around}"


@dataclass(frozen=True)
class Row:
    """One metric, with a cell per contender in the contenders' order."""

    metric: str
    title: str
    better: str
    cells: tuple[Cell, ...]

    @property
    def arrow(self) -> str:
        return ARROWS[self.better]

    @property
    def measured(self) -> bool:
        """Whether any contender has a value."""
        return any(cell.mean is not None for cell in self.cells)


def rows(report: Mapping[str, Any]) -> list[Row]:
    """The table of a report (as JSON, as published, or of a benchmark), with each row's best cells marked."""
    made = []
    for name, metric in report["metrics"].items():
        cells = []
        for contender in report["contenders"]:
            score = metric["scores"].get(contender, {"mean": None, "ci95": None, "count": 0})
            decimals = digits(metric["range"])
            cells.append(Cell(score["mean"], score["ci95"], score["count"], decimals))
        made.append(Row(name, metric["title"], metric["better"], mark_best(cells, metric["better"])))
    return made


def unmeasured(report: Mapping[str, Any]) -> str:
    """A sentence naming the metrics without a value for any contender, or ""."""
    titles = [row.title for row in rows(report) if not row.measured]
    return f"Not measurable here: {'; '.join(titles)}." if titles else ""


def remarks(report: Mapping[str, Any]) -> str:
    """The notes below a table: the references' own scores, and what could not be measured; or ""."""
    said = [
        f"The reference clips score {metric['ceiling']:.{digits(metric['range'])}f} against one another in {metric['title']}."
        for metric in report["metrics"].values()
        if metric.get("ceiling") is not None
    ]
    return " ".join(filter(None, [*said, unmeasured(report)]))


def summary(values: Sequence[float | None], groups: Sequence[Sequence[float | None]]) -> dict[str, Any]:
    """Mean of the values and its interval over the means of `groups`; missing values are left out."""
    found = [value for value in values if value is not None]
    units = [float(np.mean(kept)) for group in groups if (kept := [v for v in group if v is not None])]
    return {
        "mean": float(np.mean(found)) if found else None,
        "ci95": half_width(units),
        "count": len(found),
    }


def kept_files(version: Version) -> dict[str, dict[str, Any]]:
    """Page, report and videos that an evaluation of the version left in the registry, as `FILES` has them."""
    evaluated = version.metrics.get("evaluation")
    return dict(evaluated.get(FILES) or {}) if isinstance(evaluated, dict) else {}


def score_of(report: Report, measured: Measured, contender: str) -> dict[str, Any]:
    """Mean, interval, count and values of one metric of one contender."""
    values = finite(measured.scores[contender].values)
    each, prompts = 1, report.asked(measured)
    if len(prompts) > 1 and len(values) == len(prompts) * len(report.seeds):
        each = len(report.seeds)
    groups = [values[first : first + each] for first in range(0, len(values), each)]
    return {**summary(values, groups), "values": values}


def half_width(units: Sequence[float]) -> float | None:
    """Half the width of a mean's t interval; None for fewer than two values."""
    if len(units) < 2:
        return None
    error = float(np.std(units, ddof=1)) / math.sqrt(len(units))
    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(units) - 1)) * error


def mark_best(cells: Sequence[Cell], better: str) -> tuple[Cell, ...]:
    """Mark the cells with the best mean as printed; if all are equal, mark none."""
    means = [round(c.mean, c.digits) for c in cells if c.mean is not None]
    if len(set(means)) < 2:
        return tuple(cells)
    best = max(means) if better == "higher" else min(means)
    return tuple(replace(c, best=c.mean is not None and round(c.mean, c.digits) == best) for c in cells)


def digits(bounds: Sequence[float | None]) -> int:
    """Decimals to print: three for scores of about 0 to 1, two for percent-like and unbounded ones."""
    low, high = bounds
    return 3 if low is not None and high is not None and high - low <= 10 else 2


def finite(values: Iterable[float | None]) -> list[float | None]:
    """The values as plain floats; those that are not finite become None."""
    return [None if v is None or not math.isfinite(v) else float(v) for v in values]


def as_json(report: Report, **more: Any) -> dict[str, Any]:
    """The whole report as JSON: settings, table and every value. `more` comes first (title, data, notes)."""
    return {
        **more,
        "foundation": {"name": report.foundation, "fingerprint": report.fingerprint},
        "generation": report.generation.facts(),
        "seeds": list(report.seeds),
        "prompts": list(report.prompts),
        "prompts_sha256": report.prompts_sha256,
        "open_prompts": list(report.open_prompts),
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
        "metrics": {
            measured.name: {
                "title": measured.title,
                "better": measured.better,
                "range": finite(measured.range),
                "ceiling": measured.ceiling,
                "scores": {
                    contender.name: score_of(report, measured, contender.name)
                    for contender in report.contenders
                },
            }
            for measured in report.measured
        },
    }


def without_values(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of `as_json` with only their means and intervals."""
    return {
        name: {
            **metric,
            "scores": {
                contender: {key: score[key] for key in ("mean", "ci95", "count")}
                for contender, score in metric["scores"].items()
            },
        }
        for name, metric in metrics.items()
    }


def published_scores(report: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `as_json` for the registry, under the key `evaluation` of the version's metrics."""
    return {
        "metrics": without_values(report["metrics"]),
        "contenders": {name: one["title"] for name, one in report["contenders"].items()},
        "prompts": len(report["prompts"]),
        "open_prompts": report["open_prompts"],
        "foundation_fingerprint": report["foundation"]["fingerprint"],
        **{key: report[key] for key in ("prompts_sha256", "seeds", "generation", "interval")},
        **{key: report.get(key) for key in ("data_sha256", "measured_at", "notes")},
    }


def as_summary(reports: Mapping[str, Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """Combine reports of several concepts (as JSON, by name) in one table, with intervals over concepts.

    All reports have the same contenders, seeds and settings. Means are over all values. Sprites and
    other clips have different metrics; each mean covers the concepts that have the metric.
    """
    first = next(iter(reports.values()))
    metrics: dict[str, Any] = {}
    for report in reports.values():
        for name, metric in report["metrics"].items():
            metrics.setdefault(
                name, {**{key: metric[key] for key in ("title", "better", "range")}, "scores": {}}
            )
    for name, metric in metrics.items():
        for contender in first["contenders"]:
            groups = [
                report["metrics"][name]["scores"][contender]["values"]
                for report in reports.values()
                if name in report["metrics"]
            ]
            metric["scores"][contender] = summary([value for group in groups for value in group], groups)
    ours = next(iter(first["contenders"]))
    return {
        **more,
        **{key: first[key] for key in ("foundation", "generation", "seeds")},
        "prompts": sum(len(report["prompts"]) for report in reports.values()),
        "interval": SUMMARY_INTERVAL,
        "contenders": {name: one["title"] for name, one in first["contenders"].items()},
        "metrics": metrics,
        "concepts": [
            {
                "name": name,
                "title": report.get("of_the_set", name),
                "clips": len(report["references"]),
                "prompts": len(report["prompts"]),
                "ours": {
                    metric: report["metrics"][metric]["scores"][ours]["mean"]
                    if metric in report["metrics"]
                    else None
                    for metric in metrics
                },
            }
            for name, report in reports.items()
        ],
    }


def write_json(report: Mapping[str, Any], path: Path) -> None:
    """Write report.json atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
