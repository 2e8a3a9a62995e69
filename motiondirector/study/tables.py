"""From trials to tables: means with confidence intervals, and which of the targets were reached.

A motion is one observation: the mean over its trials (the seeds), of which each is the mean over its videos. Neither the
videos of a trial nor the trials of a motion are independent of each other: they share what is easy or hard about it.
Intervals are 95 % of Student's t over the motions, which are few. Of a single motion its trials are the observations,
and say nothing of other motions. Methods are compared in pairs: trials of the same motion, clips and seed, which share
prompts and noise too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
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
COMPARED = (
    "motion_fidelity",
    "appearance_accuracy",
    "appearance_leakage",
)  # of ours and each other method, in pairs
ALIKE = 0.02  # what a mean may be worse by, and still count as equal


@dataclass(frozen=True)
class Cell:
    """Mean over motions, half the width of its 95 % interval, and how many motions (of a single one: its trials)."""

    mean: float
    half: float
    count: int

    def __str__(self) -> str:
        return self.told()

    def told(self, form: str = ".2f") -> str:
        """ "0.79 ± 0.13"; the mean in another form of numbers: "+.2f"."""
        return f"{self.mean:{form}} ± {self.half:.2f}" if self.count > 1 else f"{self.mean:{form}}"

    @property
    def above_zero(self) -> bool:
        """Whether there is an interval and all of it is above 0."""
        return self.count > 1 and self.mean - self.half > 0

    @property
    def below_zero(self) -> bool:
        """Whether there is an interval and all of it is below 0."""
        return self.count > 1 and self.mean + self.half < 0


def cell(values: Iterable[float]) -> Cell | None:
    """None without values; one value has no interval (half is 0)."""
    found = np.asarray(list(values), float)
    if not len(found):
        return None
    half = 0.0
    if len(found) > 1:
        half = float(stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found)))
    return Cell(float(found.mean()), half, len(found))


def over_motions(values: Mapping[str, list[float]]) -> Cell | None:
    """A cell of a motion's trials by motion: each motion's mean is a value; of a single motion each trial is."""
    if len(values) == 1:
        return cell(next(iter(values.values())))
    return cell(float(np.mean(trials)) for trials in values.values())


@dataclass(frozen=True)
class Outcome:
    """Cells by (references, method, metric), the seconds that training took, and each trial's means."""

    cells: dict[tuple[int, str, str], Cell]
    by_motion: dict[tuple[int, str, str, str], Cell]  # (references, method, metric, motion): over its trials
    seconds: dict[tuple[int, str], Cell]  # over the trials that trained alone
    trials: dict[Trial, dict[str, float]]  # by metric, the mean over the videos that it could be measured of

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

    def paired(self, references: int, one: str, other: str, metric: str) -> Cell | None:
        """What `one` has more of than `other`, by trials of the same motion, clips and seed; None without a pair."""
        apart: dict[str, list[float]] = {}
        for trial, values in self.trials.items():
            if (trial.references, trial.method) == (references, one) and metric in values:
                against = self.trials.get(replace(trial, method=other), {})
                if metric in against:
                    apart.setdefault(trial.motion, []).append(values[metric] - against[metric])
        return over_motions(apart)


def gather(results: Iterable[tuple[Trial, dict[str, Any]]]) -> Outcome:
    """All trials, by references, method and metric: a motion's trials averaged first, then over the motions."""
    values: dict[tuple[int, str, str], dict[str, list[float]]] = {}
    seconds: dict[tuple[int, str], list[float]] = {}
    trials: dict[Trial, dict[str, float]] = {}
    for trial, result in results:
        measured: dict[str, float] = {}
        trials[trial] = measured
        for metric, found in result["values"].items():
            known = [v for v in found if v is not None]
            if known:
                measured[metric] = float(np.mean(known))
                motions = values.setdefault((trial.references, trial.method, metric), {})
                motions.setdefault(trial.motion, []).append(measured[metric])
        if result["seconds"].get("packed", 1) == 1:  # a pack's share says nothing of one concept alone
            seconds.setdefault((trial.references, trial.method), []).append(result["seconds"]["train"])

    def cells(table: Iterable[tuple[Any, Cell | None]]) -> dict[Any, Cell]:
        return {key: one for key, one in table if one is not None}

    return Outcome(
        cells((key, over_motions(motions)) for key, motions in values.items()),
        cells(
            ((*key, motion), cell(found))
            for key, motions in values.items()
            for motion, found in motions.items()
        ),
        cells((key, cell(found)) for key, found in seconds.items()),
        trials,
    )


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
        # every clip of a motion is that motion exactly, so what references score against each other is 1 (tested)
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
        motion, leak = (
            outcome.paired(n, OURS, "no-debias", metric)
            for metric in ("motion_fidelity", "appearance_leakage")
        )
        if motion and leak:
            better = motion.above_zero and leak.mean <= ALIKE
            found.append(
                Target(
                    f"{case}: debiased minus not debiased, in pairs",
                    "better motion at equal leakage, or less leakage at equal motion; its interval beyond 0",
                    f"motion {motion.told('+.2f')}, leakage {leak.told('+.2f')}",
                    better or (leak.below_zero and motion.mean >= -ALIKE),
                )
            )
    return found
