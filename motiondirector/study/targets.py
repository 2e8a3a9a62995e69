"""Targets for our method on held-out motions, and whether they are met."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from motiondirector.study.methods import BASE, OURS
from motiondirector.study.plan import MAIN
from motiondirector.study.tables import LEAKS, VARIETIES, Cell, Outcome

# (one clip, several clips)
FIDELITY = (0.93, 0.95)
WORST_MOTION = (0.70, 0.80)
WORST_SEED = (0.75, 0.85)  # over all motions except the worst
OPEN_FIDELITY = (0.85, 0.90)
OPEN_LEAKAGE = 0.05
OPEN_DIVERSITY = 0.9
ACCURACY = 0.95  # of the base's
LEAKAGE = 0.05
BEHIND = -0.03  # ours minus coupled must be above this: coupled's motion may be slightly better
MINUTES = (3.0, 6.0)


@dataclass(frozen=True)
class Target:
    """A target: its name, the wanted relation in words, the value reached, and whether it is met."""

    what: str
    wanted: str
    reached: str
    met: bool


def targets(outcomes: Mapping[str, Outcome]) -> list[Target]:
    """The targets for each number of reference clips, as far as the existing methods and tables allow.

    Args:
        outcomes: by captions. Most targets use the main table; one uses the table of full captions.
    """
    found: list[Target] = []
    outcome = outcomes.get(MAIN)
    for references in outcome.references if outcome else []:
        assert outcome is not None
        found += _Of(outcome, references).main()
    full = outcomes.get("full")
    for references in full.references if full else []:
        assert full is not None
        found += _Of(full, references, "full captions, ").motion_against_coupled()
    return found


@dataclass(frozen=True)
class _Of:
    """The targets for one table and number of reference clips."""

    outcome: Outcome
    references: int
    prefix: str = ""

    def main(self) -> list[Target]:
        several = int(self.references > 1)
        metric = "motion_fidelity"
        worst, lowest = self.outcome.worst_motion(self.references, OURS, metric)
        motion, seed = self.outcome.worst_seed(self.references, OURS, metric, but=worst)
        return [
            *self._at_least("motion fidelity, mean", FIDELITY[several], self._mean(metric)),
            *self._at_least("worst motion", WORST_MOTION[several], lowest, f" ({worst})"),
            *self._at_least(
                "worst seed over all motions but the worst", WORST_SEED[several], seed, f" ({motion})"
            ),
            *self._looks_against_coupled(),
            *self.motion_against_coupled(),
            *self._against("motiondirector", "the paper's own setting"),
            *self._against("plain", "not debiased"),
            *self._against("no-generated", "without generated references"),
            *self._open_leakage(),
            *self._open_diversity(),
            *self._at_least(
                "open prompts: fidelity", OPEN_FIDELITY[several], self._mean("open_motion_fidelity")
            ),
            *self._accuracy(),
            *self._at_most("leakage (full prompts)", LEAKAGE, self._mean("appearance_leakage")),
            *self._minutes(MINUTES[several]),
        ]

    def motion_against_coupled(self) -> list[Target]:
        apart = self._paired("coupled", "motion_fidelity")
        if apart is None:
            return []
        wanted = f"interval above {BEHIND}"
        return [self._target("ours minus coupled, motion", wanted, apart.text("+.2f"), apart.above(BEHIND))]

    def _looks_against_coupled(self) -> list[Target]:
        leak, variety = (self._paired("coupled", metric) for metric in ("open_leakage", "open_diversity"))
        if leak is None or variety is None:
            return []
        ours, theirs = (self._mean("open_leakage", method) for method in (OURS, "coupled"))
        lost, theirs_lost = (1 - self._mean("open_diversity", method) for method in (OURS, "coupled"))
        return [
            self._target(
                "ours minus coupled, open-prompt leakage",
                "interval below 0, by half at least",
                f"{leak.text('+.2f')} ({ours:.2f} against {theirs:.2f})",
                leak.below(0) and ours <= theirs / 2,
            ),
            self._target(
                "ours minus coupled, open-prompt diversity",
                "interval above 0, half of what coupled loses at least",
                f"{variety.text('+.2f')} (lost {lost:.2f} against {theirs_lost:.2f})",
                variety.above(0) and lost <= theirs_lost / 2,
            ),
        ]

    def _against(self, other: str, title: str) -> list[Target]:
        motion, leak = (self._paired(other, metric) for metric in ("motion_fidelity", "open_leakage"))
        if motion is None:
            return []
        reached = f"motion {motion.text('+.2f')}" + (f", leakage {leak.text('+.2f')}" if leak else "")
        return [
            self._target(
                f"ours minus {title}, motion or open-prompt leakage",
                "interval beyond 0",
                reached,
                motion.above(0) or (leak is not None and leak.below(0)),
            )
        ]

    def _accuracy(self) -> list[Target]:
        base = self._mean("appearance_accuracy", BASE)
        if not base:  # the share of 0 is undefined
            return []
        return self._at_least(
            "appearance accuracy, of the base's", ACCURACY, self._mean("appearance_accuracy") / base
        )

    def _open_leakage(self) -> list[Target]:
        """Averages only positive leakage: a look shown less often than by the base cannot offset another."""
        known = self._measured(LEAKS)
        if not known:
            return []
        value = sum(max(0.0, one) for one in known.values()) / len(known)
        each = ", ".join(f"{_look(metric)} {one:+.2f}" for metric, one in known.items())
        return self._at_most("open prompts: reference's looks beyond the base's share", OPEN_LEAKAGE, value, f" ({each})")  # fmt: skip

    def _open_diversity(self) -> list[Target]:
        """Caps diversity at the base's: more variety of one look cannot offset less of another."""
        known = self._measured(VARIETIES)
        if not known:
            return []
        value = sum(min(1.0, one) for one in known.values()) / len(known)
        each = ", ".join(f"{_look(metric)} {one:.2f}" for metric, one in known.items())
        return self._at_least("open prompts: diversity, of the base's", OPEN_DIVERSITY, value, f" ({each})")

    def _measured(self, metrics: Iterable[str]) -> dict[str, float]:
        """Means of our method, for those metrics that have one."""
        found = {metric: self._mean(metric) for metric in metrics}
        return {metric: value for metric, value in found.items() if math.isfinite(value)}

    def _minutes(self, most: float) -> list[Target]:
        took = self.outcome.seconds.get((self.references, OURS))
        if took is None:
            return []
        return self._at_most("minutes to train alone, in one process of the study", most, took.mean / 60)

    def _mean(self, metric: str, method: str = OURS) -> float:
        return self.outcome.mean(self.references, method, metric)

    def _paired(self, other: str, metric: str) -> Cell | None:
        return self.outcome.paired(self.references, OURS, other, metric)

    def _at_least(self, what: str, bound: float, value: float, more: str = "") -> list[Target]:
        return self._bounded(what, f"at least {bound:.2f}", value, more, lambda: value >= bound)

    def _at_most(self, what: str, bound: float, value: float, more: str = "") -> list[Target]:
        return self._bounded(what, f"at most {bound:.2f}", value, more, lambda: value <= bound)

    def _bounded(
        self, what: str, wanted: str, value: float, more: str, test: Callable[[], bool]
    ) -> list[Target]:
        if not math.isfinite(value):
            return []
        return [self._target(what, wanted, f"{value:.2f}{more}", bool(test()))]

    def _target(self, what: str, wanted: str, reached: str, met: bool) -> Target:
        return Target(f"{self.prefix}{case_of(self.references)}: {what}", wanted, reached, met)


def case_of(references: int) -> str:
    """ "one clip", "4 clips"."""
    return "one clip" if references == 1 else f"{references} clips"


def _look(metric: str) -> str:
    return metric.split("_", 2)[2].replace("_", " ")
