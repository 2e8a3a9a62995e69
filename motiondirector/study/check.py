"""`study --check`: loose bounds on the claim, for CI, where a few minutes must do."""

from __future__ import annotations

import math

from motiondirector.study.tables import OURS, Outcome, Target


def bounds(outcome: Outcome) -> list[Target]:
    """What a small study must show for each number of reference clips; what was not measured is missed.

    Looser than `targets`, which a whole study is held to: two motions from one seed, four videos each, spread widely,
    and a change of torch moves single videos. A broken method still falls through: trained on nothing or on the wrong
    path its motion is the base model's (above base: 0.0), and a leaking or collapsed one shows in half the videos.
    """
    found = []
    for n in outcome.references:
        case = "single clip" if n == 1 else f"{n} clips"

        def above_base(metric: str, n: int = n) -> float:
            return outcome.mean(n, OURS, metric) - outcome.mean(n, "base", metric)

        gain, leaks = above_base("motion_fidelity"), outcome.mean(n, OURS, "appearance_leakage")
        seen = above_base("object_presence")
        checks = (
            # whole studies find 0.5 to 0.8: half of that is no accident of eight videos
            ("motion fidelity of ours above base", "at least 0.30", gain, gain >= 0.3),
            # a video leaks or does not: two of eight (0.25) may, and other arithmetic moves one
            ("leakage of ours", "at most 0.30", leaks, leaks <= 0.3),
            # and as many may lose their object in some frame
            ("object in every frame, ours - base", "at least -0.30", seen, seen >= -0.3),
        )
        for what, wanted, value, met in checks:
            told = "not measured" if math.isnan(value) else f"{value:.2f}"
            found.append(Target(f"{case}: {what}", wanted, told, met))
    return found
