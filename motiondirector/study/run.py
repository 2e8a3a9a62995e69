"""Runs a plan's trials in a few processes, each with one copy of the foundation.

Trials with a result are not run again, and those that another command runs in the same folder are left
to it. Trials that differ only in motion and seed train in one forward, like the concepts of a batch
(`training.loop.pack`).
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from infra.allocator import keep_freed_memory
from infra.children import end_with_parent
from infra.errors import UserError
from motiondirector.study import records
from motiondirector.study.methods import training_of
from motiondirector.study.plan import Plan, Trial, trial_key
from motiondirector.study.records import Record

PACK = 8  # trials trained in one forward
_foundation: Any = None  # this process's, loaded once
_steps: Any = None  # a queue: (unit's first trial, steps done)

Unit = list[Trial]  # trials that train in one forward or share a training


def _load(source: str | None, dtype: str, threads: int, steps: Any) -> None:
    global _foundation, _steps
    import torch

    from models.load import load_foundation

    end_with_parent()
    keep_freed_memory()
    torch.set_num_threads(threads)
    _foundation, _steps = load_foundation(source, dtype=dtype), steps


def _run(unit: Unit, plan: Plan, keys: list[str], out: Path, wait: bool) -> bool:
    """Run a unit. Returns False if another process runs it; `wait` waits for that process instead."""
    from motiondirector.study.trial import run_trials

    def on_step(step: int, steps: int) -> None:
        _steps.put((unit[0].name, step, steps))

    with records.claimed(out, keys, wait) as ours:
        if not ours:
            return False
        there = records.read(out, unit[0].captions)  # another command may have added results meanwhile
        left = [(trial, key) for trial, key in zip(unit, keys, strict=True) if key not in there]
        if left:
            trials, wanted = zip(*left, strict=True)
            records.append(out, run_trials(trials, plan, _foundation, wanted, out, on_step=on_step))
    return True


def units(trials: list[Trial], pack: int) -> list[Unit]:
    """Group trials of one table, number of clips and training method into units of at most `pack` trainings.

    Units are in the order of their first trials, so that a stopped study has complete comparisons.
    """
    alike: dict[Any, dict[Any, Unit]] = {}
    for trial in trials:
        training = training_of(trial.method)
        of = alike.setdefault((trial.captions, trial.references, training), {})
        of.setdefault((trial.motion, trial.seed), []).append(trial)
    found = []
    for trainings in alike.values():
        shared = list(trainings.values())
        for first in range(0, len(shared), pack):
            found.append([trial for of in shared[first : first + pack] for trial in of])
    place = {trial: i for i, trial in enumerate(trials)}
    return sorted(found, key=lambda unit: place[unit[0]])


def keys_of(plan: Plan, fingerprint: str) -> dict[Trial, str]:
    """The key of each trial's result."""
    return {trial: trial_key(plan, trial, fingerprint) for trial in plan.trials()}


def found(keys: dict[Trial, str], out: Path) -> dict[Trial, Record]:
    """The existing results, in the plan's order; runs nothing."""
    known: dict[str, Record] = {}
    for captions in dict.fromkeys(trial.captions for trial in keys):
        known |= records.read(out, captions)
    return {trial: known[key] for trial, key in keys.items() if key in known}


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
) -> dict[Trial, Record]:
    """Run all trials without a result, `jobs` packs at a time. Returns all results in the plan's order.

    Args:
        out: the study's folder (`records.py`).
        fingerprint: of the foundation.
        foundation: its source; every process loads it in the plan's precision.
        pack: largest number of trainings in one forward; 1 trains each alone.
        on_done: called with (trial, done so far, total) for each result, also for those that exist already.
        on_step: called from a thread with (name of a pack's first trial, steps done, total steps).

    Raises:
        UserError: a trial failed; results of the others stay.
    """
    keys = keys_of(plan, fingerprint)
    there = found(keys, out)
    for done, trial in enumerate(there, 1):
        on_done(trial, done, len(keys))
    missing = units([trial for trial in keys if trial not in there], pack)
    if not missing:
        return there
    done = len(there)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    dtype = dict(plan.generation)["dtype"]
    context = multiprocessing.get_context("spawn")
    steps = context.Queue()
    telling = threading.Thread(target=_tell, args=(steps, on_step), daemon=True)
    telling.start()
    with ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_load, initargs=(foundation, dtype, threads, steps)
    ) as pool:
        running: dict[Future[bool], Unit] = {}
        left = [(unit, False) for unit in missing]
        try:
            while left:  # the second round waits for units that another command runs
                running = {
                    pool.submit(_run, unit, plan, [keys[trial] for trial in unit], out, wait): unit
                    for unit, wait in left
                }
                left = []
                for future in as_completed(running):
                    if not future.result():
                        left.append((running[future], True))
                        continue
                    for trial in running[future]:
                        done += 1
                        on_done(trial, done, len(keys))
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, Exception) and not isinstance(error, UserError):
                names = ", ".join(trial.name for trial in running[future])
                raise UserError(f"trial {names} failed: {error}") from error
            raise
        finally:
            steps.put(None)
            telling.join()
    return found(keys, out)


def _tell(steps: Any, on_step: Callable[[str, int, int], None]) -> None:
    while (event := steps.get()) is not None:
        on_step(*event)
