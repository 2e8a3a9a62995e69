"""From trials to tables: means with confidence intervals, and which of the targets were reached.

A trial (one concept, one method, one seed) is one observation: the mean over its videos. Intervals are 95 % of Student's t
over the trials of a method, which are few and differ by motion; videos of one trial are not independent of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from motiondirector.study.plan import Trial

SHOWN = (
    ("motion_fidelity", "motion fidelity", "higher"),
    ("appearance_accuracy", "appearance accuracy", "higher"),
    ("appearance_leakage", "leakage", "lower"),
    ("object_presence", "object in every frame", "higher"),
    ("temporal_consistency", "temporal consistency", "higher"),
    ("appearance_diversity", "appearance diversity", "higher"),
)
OURS = "dual"


@dataclass(frozen=True)
class Cell:
    """Mean over trials, half the width of its 95 % interval, and how many trials."""

    mean: float
    half: float
    trials: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.half:.2f}" if self.trials > 1 else f"{self.mean:.2f}"


def cell(values: Iterable[float]) -> Cell | None:
    """None without values; one value has no interval (half is 0)."""
    found = np.asarray(list(values), float)
    if not len(found):
        return None
    half = 0.0
    if len(found) > 1:
        half = float(stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found)))
    return Cell(float(found.mean()), half, len(found))


@dataclass(frozen=True)
class Outcome:
    """Cells by (references, method, metric), and the seconds that training took."""

    cells: dict[tuple[int, str, str], Cell]
    by_motion: dict[tuple[int, str, str, str], Cell]  # (references, method, metric, motion)
    seconds: dict[tuple[int, str], Cell]

    @property
    def references(self) -> list[int]:
        return sorted({key[0] for key in self.cells})

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(key[1] for key in self.cells))

    @property
    def motions(self) -> list[str]:
        return list(dict.fromkeys(key[3] for key in self.by_motion))

    def mean(self, references: int, method: str, metric: str) -> float:
        """nan where there is none."""
        found = self.cells.get((references, method, metric))
        return found.mean if found else float("nan")


def gather(results: Iterable[tuple[Trial, dict[str, Any]]]) -> Outcome:
    """All trials, by references, method and metric."""
    values: dict[tuple[int, str, str], list[float]] = {}
    motions: dict[tuple[int, str, str, str], list[float]] = {}
    seconds: dict[tuple[int, str], list[float]] = {}
    for trial, result in results:
        for metric, found in result["values"].items():
            known = [v for v in found if v is not None]
            if known:
                key = (trial.references, trial.method, metric)
                values.setdefault(key, []).append(float(np.mean(known)))
                motions.setdefault((*key, trial.motion), []).append(float(np.mean(known)))
        if result["seconds"].get("packed", 1) == 1:  # a pack's share says nothing of one concept alone
            seconds.setdefault((trial.references, trial.method), []).append(result["seconds"]["train"])

    def cells(table: dict[Any, list[float]]) -> dict[Any, Cell]:
        return {key: c for key, v in table.items() if (c := cell(v)) is not None}

    return Outcome(cells(values), cells(motions), cells(seconds))


@dataclass(frozen=True)
class Target:
    """A figure to reach: what, the wanted relation in words, what was reached, and whether it was."""

    what: str
    wanted: str
    reached: str
    met: bool


def targets(outcome: Outcome) -> list[Target]:
    """The study's targets for each number of reference clips that was run (those that its methods allow to tell)."""
    found: list[Target] = []
    for n in outcome.references:
        case = "single clip" if n == 1 else f"{n} clips"

        def of(method: str, metric: str, n: int = n) -> float:
            return outcome.mean(n, method, metric)

        def say(
            what: str, wanted: str, value: float, test: Callable[[float], bool], case: str = case
        ) -> None:
            if np.isfinite(value):
                found.append(Target(f"{case}: {what}", wanted, f"{value:.2f}", bool(test(value))))

        fidelity, leaks = of(OURS, "motion_fidelity"), of(OURS, "appearance_leakage")
        # every clip of a motion is that motion exactly, so what references score against each other is 1
        say("motion fidelity of ours, of the references' own", "at least 0.85", fidelity, lambda v: v >= 0.85)
        say(
            "motion fidelity of ours above base",
            "at least 0.40",
            fidelity - of("base", "motion_fidelity"),
            lambda v: v >= 0.4,
        )
        say(
            "appearance accuracy of ours / base",
            "at least 0.90",
            of(OURS, "appearance_accuracy") / of("base", "appearance_accuracy"),
            lambda v: v >= 0.9,
        )
        say("leakage of ours", "at most 0.10", leaks, lambda v: v <= 0.1)
        say(
            "object in every frame, ours - base",
            "at least 0.00",
            of(OURS, "object_presence") - of("base", "object_presence"),
            lambda v: v >= 0,
        )
        if n == 1:
            say(
                "leakage of coupled / ours",
                "at least 3",
                of("coupled", "appearance_leakage") / max(leaks, 1e-3),
                lambda v: v >= 3,
            )
            took = outcome.seconds.get((n, OURS))
            say(
                "minutes to customize on one process of the study",
                "under 3",
                took.mean / 60 if took else float("nan"),
                lambda v: v < 3,
            )
        gain = fidelity - of("no-debias", "motion_fidelity")
        spared = of("no-debias", "appearance_leakage") - leaks
        if np.isfinite(gain):
            found.append(
                Target(
                    f"{case}: debiased against not debiased",
                    "better motion at equal leakage, or less leakage at equal motion",
                    f"motion {gain:+.2f}, leakage {-spared:+.2f}",
                    bool((gain > 0 and spared > -0.02) or (spared > 0 and gain > -0.02)),
                )
            )
    return found
