"""Runs trials: train, generate, measure. Plain torch in one process.

A trial is a function of (trial, settings, foundation). Trials that differ only in motion and seed train
as one pack (`training.loop.pack`): each gets the adapter that it would get alone. Their videos are also
generated together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.metric import Case, Reference
from evaluation.report import finite
from evaluation.store import Store
from motiondirector.study.looks import Asked, full_prompts, open_prompts, reference_clips
from motiondirector.study.methods import BASE, METHODS, training_of
from motiondirector.study.plan import MAIN, Plan, Trial, settings_of
from motiondirector.study.records import Record
from motiondirector.study.videos import (
    SHOWN,
    Order,
    base_videos,
    frames_file,
    generate,
    keep_frames,
)

if TYPE_CHECKING:
    from datasets.clip_sets.latents import CachedClip
    from models.foundations.base import Foundation
    from training.adapters import PathTensors
    from training.config import TrainConfig

DIGITS = 4  # of the values in a record
Steps = Callable[[int, int], None]  # (steps done, total steps)


def clips_of(trial: Trial) -> list[Reference]:
    """The clips that a trial's motion is learned from, with their captions."""
    return reference_clips(trial.motion, trial.references, trial.seed, trial.captions)


def asked_of(trial: Trial, plan: Plan) -> tuple[list[Asked], list[Asked]]:
    """The full and the open prompts of a trial."""
    of = trial.motion, trial.references, trial.seed, trial.captions
    return full_prompts(*of, plan.appearances), open_prompts(*of, plan.open_videos)


def encode(
    references: list[Reference], foundation: Foundation, looks: Sequence[str] = ()
) -> list[CachedClip]:
    """Encode clips, and the prompts for generated references (`TrainConfig.looks`), for training, without a storage."""
    from datasets.clip_sets.latents import CachedClip, latents_of, text_of

    empty = text_of("", foundation)
    look_texts = tuple(text_of(prompt, foundation) for prompt in looks)
    return [
        replace(
            CachedClip.of(
                reference.caption,
                "",
                reference.caption,
                latents_of(reference.video_FHWC, foundation, reference.caption),
                text_of(reference.caption, foundation),
                empty,
            ),
            look_texts=look_texts,
        )
        for reference in references
    ]


def config_of(trial: Trial, settings: dict[str, Any], foundation: Foundation) -> TrainConfig:
    """The training settings of a trial over the foundation's recommended ones. Raises UserError."""
    from training.recommended import resolve

    return resolve({**settings, "seed": trial.seed}, foundation.recommended, trial.references)


def train(
    trials: Sequence[Trial],
    settings: dict[str, Any],
    foundation: Foundation,
    on_step: Steps = lambda step, steps: None,
) -> list[PathTensors]:
    """Train the adapters of one method's trials as one pack; each is the same as if trained alone.

    Args:
        settings: all settings except the seed, which is the trial's.

    Raises:
        UserError: this process cannot use the settings, for example because the foundation has another
            precision.
    """
    from training.loop.member import Member
    from training.runs.local import check_local, train_local, train_pack

    configs = [config_of(trial, settings, foundation) for trial in trials]
    check_local(foundation, configs[0])
    members = [
        Member(trial.name, trial.concept, config, encode(clips_of(trial), foundation, config.looks))
        for trial, config in zip(trials, configs, strict=True)
    ]
    if len(members) > 1:
        return train_pack(foundation, members, on_step=on_step)
    [alone] = members
    return [
        train_local(
            foundation,
            alone.concept,
            alone.clips,
            alone.config,
            on_step=lambda report: on_step(report.step, report.steps),
        )
    ]


def adapters_for(
    trials: Sequence[Trial], plan: Plan, foundation: Foundation, on_step: Steps
) -> tuple[list[PathTensors], dict[str, Any]]:
    """The adapters for each trial's videos, and the training time. Trials may share a training."""
    leads = {trial: replace(trial, method=training_of(trial.method)) for trial in trials}
    trainings = list(dict.fromkeys(leads.values()))
    began = time.perf_counter()
    trained = dict(
        zip(trainings, train(trainings, settings_of(plan, trainings[0]), foundation, on_step), strict=True)
    )
    took = (time.perf_counter() - began) / len(trainings)
    used: list[PathTensors] = []
    for trial, lead in leads.items():
        paths = METHODS[trial.method].paths
        used.append({path: of for path, of in trained[lead].items() if paths is None or path in paths})
    return used, {"train": round(took, 1), "packed": len(trainings)}  # for a pack: the trial's share


def run_trials(
    trials: Sequence[Trial],
    plan: Plan,
    foundation: Foundation,
    keys: Sequence[str],
    out: Path,
    *,
    on_step: Steps = lambda step, steps: None,
) -> list[Record]:
    """Train, generate and measure. Returns a record for each trial.

    Args:
        trials: with the same number of reference clips, captions and training method (`methods.training_of`).
        keys: of the results, one per trial.
        out: the study's folder, which keeps the base model's videos and the frames of contact sheets.
        on_step: called with (steps done, total steps) while training.
    """
    generation, store = dict(plan.generation), Store(out / "base")
    asked = [asked_of(trial, plan) for trial in trials]
    full, free = [wanted for wanted, _ in asked], [left for _, left in asked]
    base = base_videos(foundation, free, generation, store)
    seconds: dict[str, Any] = {"train": 0.0, "packed": 1}
    if trials[0].method == BASE:
        made, opened = base_videos(foundation, full, generation, store), base
    else:
        adapters, seconds = adapters_for(trials, plan, foundation, on_step)
        steps = config_of(trials[0], settings_of(plan, trials[0]), foundation).adapter_steps
        orders = [Order([*a, *b], of, steps) for a, b, of in zip(full, free, adapters, strict=True)]
        videos = generate(foundation, orders)
        made = [of[: len(wanted)] for of, wanted in zip(videos, full, strict=True)]
        opened = [of[len(wanted) :] for of, wanted in zip(videos, full, strict=True)]
    records = []
    for i, (trial, key) in enumerate(zip(trials, keys, strict=True)):
        clips = tuple(clips_of(trial))
        cases, open_cases, base_cases = (
            _cases(videos, asked, clips)
            for videos, asked in ((made[i], full[i]), (opened[i], free[i]), (base[i], free[i]))
        )
        records.append(
            {
                "key": key,
                "trial": asdict(trial),
                "settings": settings_of(plan, trial),
                "foundation": foundation.fingerprint,
                "generation": generation,
                "values": measure(cases, open_cases, base_cases),
                "seconds": seconds,
            }
        )
        if has_sheet(trial, plan):
            shown = [("reference: " + clips[0].caption, clips[0].video_FHWC)]
            shown += [(case.prompt, case.video_FHWC) for of in (cases, open_cases) for case in of[:SHOWN]]
            keep_frames(frames_file(out, trial.name), shown)
    return records


def has_sheet(trial: Trial, plan: Plan) -> bool:
    """Whether a trial's frames are kept: first seed, main table, and a motion in `plan.sheets`."""
    first = (plan.seeds[0], MAIN if MAIN in plan.captions else plan.captions[0])
    return trial.motion in plan.sheets and (trial.seed, trial.captions) == first


def measure(
    cases: Sequence[Case], open_cases: Sequence[Case], base_cases: Sequence[Case]
) -> dict[str, list[float | None]]:
    """Values of all metrics: for full prompts under the metric's name, for open ones under `open_<name>`."""
    from evaluation.metrics import metrics_for, open_metrics_for

    chosen = open_metrics_for(references_are_sprites=True)
    found = (
        [(metric.name, metric(cases)) for metric in metrics_for(references_are_sprites=True)] if cases else []
    )
    if open_cases:
        found += [(f"open_{metric.name}", metric(open_cases)) for metric in chosen.metrics]
        found += [(f"open_{one.name}", one(open_cases, base_cases)) for one in chosen.comparisons]
    return {
        name: [None if value is None else round(value, DIGITS) for value in finite(score.values)]
        for name, score in found
    }


def _cases(
    videos: Sequence[np.ndarray], asked: Sequence[Asked], references: tuple[Reference, ...]
) -> list[Case]:
    return [Case(video, one.prompt, one.seed, references) for video, one in zip(videos, asked, strict=True)]
