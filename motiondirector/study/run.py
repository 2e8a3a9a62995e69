"""Runs a plan's trials in a few processes, each holding the foundation once. What has a result is not run again.

Trials that differ only in the motion train in one forward, as the concepts of a batch do (`training.pack`).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.allocator import keep_freed_memory
from infra.children import end_with_parent
from infra.errors import UserError
from motiondirector.study.plan import Plan, Trial, trial_key
from motiondirector.study.trial import RESULT

PACK = 8  # trials trained in one forward
_foundation: Any = None  # of this process, loaded once
_steps: Any = None  # a queue: (unit's first trial, steps done)


@dataclass(frozen=True)
class Done:
    """A finished trial."""

    trial: Trial
    folder: Path

    @property
    def result(self) -> dict[str, Any]:
        return json.loads((self.folder / RESULT).read_text())


def _load(source: str | None, dtype: str, threads: int, steps: Any) -> None:
    global _foundation, _steps
    import torch

    from models.load import load_foundation

    end_with_parent()
    keep_freed_memory()
    torch.set_num_threads(threads)
    _foundation, _steps = load_foundation(source, dtype=dtype), steps


def _run(
    unit: list[Trial], settings: dict[str, Any], folders: list[Path], appearances: int, captions: str
) -> list[Trial]:
    from motiondirector.study.trial import run_trials

    def on_step(step: int, steps: int) -> None:
        _steps.put((unit[0].name, step, steps))

    run_trials(
        unit, settings, _foundation, folders, appearances=appearances, captions=captions, on_step=on_step
    )
    return unit


def units(trials: list[Trial], pack: int) -> list[list[Trial]]:
    """Trials that train together: of one seed, number of clips and method, at most `pack`; the base model's are alone."""
    found: dict[Any, list[list[Trial]]] = {}
    for trial in trials:
        of = found.setdefault((trial.seed, trial.references, trial.method), [[]])
        if len(of[-1]) == (1 if trial.method == "base" else pack):
            of.append([])
        of[-1].append(trial)
    return [unit for of in found.values() for unit in of]


def settings_of(plan: Plan, trial: Trial) -> dict[str, Any]:
    """The plan's settings for this trial; the base model has none."""
    from training.config import suited_to

    several = dict(plan.several) if trial.references > 1 else {}
    return {} if trial.method == "base" else suited_to(trial.method, {**dict(plan.settings), **several})


def folders_of(plan: Plan, out: Path, fingerprint: str) -> dict[Trial, Path]:
    """Where each trial's result is, or will be."""
    return {
        trial: out
        / "trials"
        / f"{trial.name}-{trial_key(plan, trial, settings_of(plan, trial), fingerprint)}"
        for trial in plan.trials()
    }


def found(plan: Plan, out: Path, fingerprint: str) -> list[Done]:
    """The trials that have a result, in the plan's order; nothing is run."""
    folders = folders_of(plan, out, fingerprint)
    return [Done(trial, folder) for trial, folder in folders.items() if (folder / RESULT).is_file()]


def run_plan(
    plan: Plan,
    out: Path,
    *,
    fingerprint: str,
    foundation: str | None = None,
    jobs: int = 1,
    pack: int = PACK,
    on_done: Callable[[Trial, int, int], None] = lambda trial, done, total: None,
    on_step: Callable[[str, int, int], None] = lambda name, step, steps: None,
) -> list[Done]:
    """Run every trial that has no result yet, `jobs` packs at a time; all results, in the plan's order.

    Args:
        out: `trials/<name>-<key>/` of each result.
        fingerprint: of the foundation, which every process loads for itself from `foundation`, in the plan's precision.
        pack: most trials that train in one forward; 1 trains each alone.
        on_done: called with (trial, done so far, total) when one ends, those found done at once included.
        on_step: called, from a thread, with (name of a pack's first trial, steps done, steps in all).

    Raises:
        UserError: the first trial that fails; results of the others stay.
    """
    trials = plan.trials()
    folders = folders_of(plan, out, fingerprint)
    missing, done = [], 0
    for trial in trials:
        if (folders[trial] / RESULT).is_file():
            done += 1
            on_done(trial, done, len(trials))
        else:
            missing.append(trial)
    if missing:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        dtype = dict(plan.generation)["dtype"]
        context = multiprocessing.get_context("spawn")
        steps = context.Queue()
        telling = threading.Thread(target=_tell, args=(steps, on_step), daemon=True)
        telling.start()
        with ProcessPoolExecutor(
            jobs, mp_context=context, initializer=_load, initargs=(foundation, dtype, threads, steps)
        ) as pool:
            running = {
                pool.submit(
                    _run,
                    unit,
                    settings_of(plan, unit[0]),
                    [folders[t] for t in unit],
                    plan.appearances,
                    plan.captions,
                ): unit
                for unit in units(missing, pack)
            }
            try:
                for future in as_completed(running):
                    future.result()
                    for trial in running[future]:
                        done += 1
                        on_done(trial, done, len(trials))
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                if isinstance(error, Exception) and not isinstance(error, UserError):
                    names = ", ".join(trial.name for trial in running[future])
                    raise UserError(f"trial {names} failed: {error}") from error
                raise
            finally:
                steps.put(None)
                telling.join()
    return [Done(trial, folders[trial]) for trial in trials]


def _tell(steps: Any, on_step: Callable[[str, int, int], None]) -> None:
    while (told := steps.get()) is not None:
        on_step(*told)


def read_results(done: list[Done]) -> Iterator[tuple[Trial, dict[str, Any]]]:
    """Every trial with its result."""
    for one in done:
        yield one.trial, one.result
