"""Aggregates trials to tables: means with confidence intervals.

Each motion is one observation: the mean over its trials (the seeds), and a trial is the mean over its
videos. Videos of a trial and trials of a motion are not independent, because they share the motion's
difficulty. Intervals are 95 % of Student's t over the motions, which are few. For a single motion its
trials are the observations, and say nothing about other motions. Methods are compared in pairs of
trials with the same motion, clips and seed, which also share looks, prompts and noise. Beside the
means, tables show the worst motion and each motion's worst seed, because a user trains one motion, not
the mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from evaluation.metrics.open_looks import LOOKS, VARIED, words_for
from motiondirector.study.plan import Trial

Shown = tuple[str, str, str]  # metric, its title, the better direction
# For prompts that name every look.
FULL: tuple[Shown, ...] = (
    ("motion_fidelity", "motion fidelity", "higher"),
    ("appearance_accuracy", "appearance accuracy", "higher"),
    ("appearance_leakage", "leakage", "lower"),
    ("object_presence", "object in every frame", "higher"),
    ("temporal_consistency", "temporal consistency", "higher"),
    ("appearance_diversity", "appearance diversity", "higher"),
)
# For prompts that name only the class.
OPEN: tuple[Shown, ...] = (
    ("open_motion_fidelity", "motion fidelity", "higher"),
    ("open_leakage", "leakage", "lower"),
    *((f"open_leakage_{look}", f"leakage, {words_for(look)}", "lower") for look in VARIED),
    ("open_diversity", "diversity", "higher"),
    ("open_reference_looks", "reference's looks shown", "lower"),
    ("open_object_presence", "object in every frame", "higher"),
)
COMPARED: tuple[Shown, ...] = (  # of ours and each other method, in pairs
    ("motion_fidelity", "motion fidelity", "higher"),
    ("appearance_accuracy", "appearance accuracy", "higher"),
    ("appearance_leakage", "leakage", "lower"),
    ("open_motion_fidelity", "open: motion fidelity", "higher"),
    ("open_leakage", "open: leakage", "lower"),
    ("open_diversity", "open: diversity", "higher"),
)
LEAKS = tuple(f"open_leakage_{look}" for look in LOOKS)
VARIETIES = tuple(f"open_diversity_{look}" for look in VARIED)


@dataclass(frozen=True)
class Cell:
    """Mean over motions (over trials if there is one motion), half its 95 % interval, and their number."""

    mean: float
    half: float
    count: int

    def __str__(self) -> str:
        return self.text()

    def text(self, form: str = ".2f") -> str:
        """ "0.79 ± 0.13"; `form` is the mean's number format, such as "+.2f"."""
        return f"{self.mean:{form}} ± {self.half:.2f}" if self.count > 1 else f"{self.mean:{form}}"

    def above(self, bound: float) -> bool:
        """Whether there is an interval that is completely above the bound."""
        return self.count > 1 and self.mean - self.half > bound

    def below(self, bound: float) -> bool:
        """Whether there is an interval that is completely below the bound."""
        return self.count > 1 and self.mean + self.half < bound


def cell(values: Iterable[float]) -> Cell | None:
    """The cell of these values; None without values. One value has no interval (half is 0)."""
    found = np.asarray(list(values), float)
    if not len(found):
        return None
    half = 0.0
    if len(found) > 1:
        half = float(stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found)))
    return Cell(float(found.mean()), half, len(found))


def over_motions(values: Mapping[str, list[float]]) -> Cell | None:
    """The cell over motions' means, from trials by motion; for a single motion, over its trials."""
    if len(values) == 1:
        return cell(next(iter(values.values())))
    return cell(float(np.mean(trials)) for trials in values.values())


@dataclass(frozen=True)
class Outcome:
    """One table of the study: cells by (references, method, metric), training seconds, each trial's means."""

    cells: dict[tuple[int, str, str], Cell]
    by_motion: dict[
        tuple[int, str, str], dict[str, list[float]]
    ]  # (references, method, metric) -> motion -> values of its trials
    seconds: dict[tuple[int, str], Cell]  # over trials that trained alone
    trials: dict[Trial, dict[str, float]]  # by metric: the mean over videos with a value

    @property
    def references(self) -> list[int]:
        return sorted({key[0] for key in self.cells})

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(key[1] for key in self.cells))

    @property
    def motions(self) -> list[str]:
        return list(dict.fromkeys(trial.motion for trial in self.trials))

    def measured(self, metric: str) -> bool:
        """Whether any trial has a value of this metric."""
        return any(key[2] == metric for key in self.cells)

    def mean(self, references: int, method: str, metric: str) -> float:
        """The mean of a cell; nan if there is no cell."""
        found = self.cells.get((references, method, metric))
        return found.mean if found else float("nan")

    def of_motions(self, references: int, method: str, metric: str) -> dict[str, float]:
        """Each motion's mean over its seeds."""
        found = self.by_motion.get((references, method, metric), {})
        return {motion: float(np.mean(trials)) for motion, trials in found.items()}

    def worst_motion(self, references: int, method: str, metric: str) -> tuple[str, float]:
        """The motion with the lowest mean, and that mean; ("", nan) if there is none."""
        found = self.of_motions(references, method, metric)
        return min(found.items(), key=lambda item: item[1]) if found else ("", float("nan"))

    def worst_seed(self, references: int, method: str, metric: str, but: str = "") -> tuple[str, float]:
        """The motion of the lowest trial, and its value; ("", nan) if none. Skips the motion `but`."""
        found = self.by_motion.get((references, method, metric), {})
        lowest = [(motion, min(trials)) for motion, trials in found.items() if motion != but]
        return min(lowest, key=lambda item: item[1]) if lowest else ("", float("nan"))

    def paired(self, references: int, one: str, other: str, metric: str) -> Cell | None:
        """`one` minus `other` over pairs of trials of the same motion, clips and seed; None if none."""
        apart: dict[str, list[float]] = {}
        for trial, values in self.trials.items():
            if (trial.references, trial.method) == (references, one) and metric in values:
                against = self.trials.get(replace(trial, method=other), {})
                if metric in against:
                    apart.setdefault(trial.motion, []).append(values[metric] - against[metric])
        return over_motions(apart)


def gather(results: Iterable[tuple[Trial, Mapping[str, Any]]]) -> Outcome:
    """Aggregate the trials of one table: averages each motion's trials first, then the motions."""
    by_motion: dict[tuple[int, str, str], dict[str, list[float]]] = {}
    seconds: dict[tuple[int, str], list[float]] = {}
    trials: dict[Trial, dict[str, float]] = {}
    for trial, result in results:
        measured: dict[str, float] = {}
        trials[trial] = measured
        for metric, found in result["values"].items():
            known = [v for v in found if v is not None]
            if known:
                measured[metric] = float(np.mean(known))
                motions = by_motion.setdefault((trial.references, trial.method, metric), {})
                motions.setdefault(trial.motion, []).append(measured[metric])
        if result["seconds"].get("packed", 1) == 1:  # a pack's share is not the time of a concept alone
            seconds.setdefault((trial.references, trial.method), []).append(result["seconds"]["train"])

    def cells(table: Iterable[tuple[Any, Cell | None]]) -> dict[Any, Cell]:
        return {key: one for key, one in table if one is not None}

    return Outcome(
        cells((key, over_motions(motions)) for key, motions in by_motion.items()),
        by_motion,
        cells((key, cell(found)) for key, found in seconds.items()),
        trials,
    )
