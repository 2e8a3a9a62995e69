"""Runs a plan's trials in a few processes, each holding the foundation once. What has a result is not run again."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import UserError
from motiondirector.study.plan import Plan, Trial, trial_key
from motiondirector.study.trial import RESULT

_foundation: Any = None  # of this process, loaded once


@dataclass(frozen=True)
class Done:
    """A finished trial."""

    trial: Trial
    folder: Path

    @property
    def result(self) -> dict[str, Any]:
        return json.loads((self.folder / RESULT).read_text())


def _load(source: str | None, threads: int) -> None:
    global _foundation
    import torch

    from models.load import load_foundation

    torch.set_num_threads(threads)
    _foundation = load_foundation(source)


def _run(trial: Trial, settings: dict[str, Any], folder: Path, appearances: int) -> Trial:
    from motiondirector.study.trial import run_trial

    run_trial(trial, settings, _foundation, folder, appearances=appearances)
    return trial


def settings_of(plan: Plan, trial: Trial) -> dict[str, Any]:
    """The plan's settings for this trial; the base model has none."""
    return {} if trial.method == "base" else dict(plan.settings)


def run_plan(
    plan: Plan,
    out: Path,
    *,
    fingerprint: str,
    foundation: str | None = None,
    jobs: int = 1,
    on_done: Callable[[Trial, int, int], None] = lambda trial, done, total: None,
) -> list[Done]:
    """Run every trial that has no result yet, `jobs` at a time; all results, in the plan's order.

    Args:
        out: `trials/<name>-<key>/` of each result.
        fingerprint: of the foundation, which every process loads for itself from `foundation`.
        on_done: called with (trial, done so far, total) when one ends, those found done at once included.

    Raises:
        UserError: the first trial that fails; results of the others stay.
    """
    trials = plan.trials()
    folders = {
        trial: out
        / "trials"
        / f"{trial.name}-{trial_key(trial, settings_of(plan, trial), fingerprint, plan.appearances)}"
        for trial in trials
    }
    missing, done = [], 0
    for trial in trials:
        if (folders[trial] / RESULT).is_file():
            done += 1
            on_done(trial, done, len(trials))
        else:
            missing.append(trial)
    if missing:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            jobs, mp_context=context, initializer=_load, initargs=(foundation, threads)
        ) as pool:
            running = {
                pool.submit(_run, trial, settings_of(plan, trial), folders[trial], plan.appearances): trial
                for trial in missing
            }
            try:
                for future in as_completed(running):
                    future.result()
                    done += 1
                    on_done(running[future], done, len(trials))
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                if isinstance(error, Exception) and not isinstance(error, UserError):
                    raise UserError(f"trial {running[future].name} failed: {error}") from error
                raise
    return [Done(trial, folders[trial]) for trial in trials]


def read_results(done: list[Done]) -> Iterator[tuple[Trial, dict[str, Any]]]:
    """Every trial with its result."""
    for one in done:
        yield one.trial, one.result
