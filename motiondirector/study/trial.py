"""Trials: render the reference clips, train, generate the held-out appearances, measure. Plain torch, one process.

    result.json    what was measured of each video, the seconds it took, what it was made from
    frames.npz     the reference clips and the generated videos, uint8

A trial is a function of (trial, settings, foundation); where its result is, it is done. Trials that differ in the motion
only train as one pack (`training.pack`): each gets the adapter that it would get alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets.sprites.captions import canonical
from datasets.sprites.motions import Motion, motion_named
from datasets.sprites.render import render_clip
from evaluation.metric import Case, Reference
from evaluation.report import finite, write_json
from infra.files import atomic_file
from motiondirector.study.plan import Trial, asked_scenes, reference_scenes

if TYPE_CHECKING:
    from datasets.latents import CachedClip
    from models.foundation import Foundation
    from training.adapters import PathTensors
    from training.config import TrainConfig

RESULT = "result.json"
FRAMES = "frames.npz"
BATCH = 10  # videos generated in one forward


def reference_clips(trial: Trial, motion: Motion | None = None, captions: str = "full") -> list[Reference]:
    """The clips the motion is learnt from, 8 frames of 64x64, with their captions (`plan.CAPTIONS`)."""
    motion = motion or motion_named(trial.motion)
    clips = []
    for i, scene in enumerate(reference_scenes(trial)):
        frames = render_clip(scene, motion, seed=trial.seed * 1000 + i)
        said = canonical(scene, motion) if captions == "full" else motion.phrases[0]
        clips.append(Reference(frames, said))
    return clips


def prompts(trial: Trial, count: int) -> list[str]:
    """The held-out appearances in words, with the concept's own word for the motion (unknown to the base model)."""
    motion = motion_named(trial.motion)
    return [canonical(scene, motion) for scene in asked_scenes(trial, count)]


def encode(references: list[Reference], foundation: Foundation) -> list[CachedClip]:
    """The clips as training reads them, without a storage in between."""
    from datasets.latents import CachedClip, latents_of, text_of

    return [
        CachedClip.of(
            reference.caption,
            "",
            reference.caption,
            latents_of(reference.video_FHWC, foundation, reference.caption),
            text_of(reference.caption, foundation),
        )
        for reference in references
    ]


def made_with(foundation: Foundation, dtype: str) -> dict[str, Any]:
    """What decides the frames beside prompt, seed and adapters (`plan.GENERATION`): the foundation's defaults.

    Args:
        dtype: of the foundation that makes them, in the words of the training settings.
    """
    from evaluation.evaluate import Generation

    return {**Generation().resolved(foundation).facts(), "dtype": dtype}


def generate(
    foundation: Foundation,
    tensors: PathTensors,
    texts: list[str],
    seed: int,
) -> list[np.ndarray]:
    """One video [F, H, W, 3] a prompt with these adapters (none: the base model); the noise is the same for every method."""
    from models.denoise import GenerationRequest, install, sample

    adapters = install(foundation, tensors)
    requests = [
        GenerationRequest(text, seed=seed * 100_000 + i, adapters=adapters) for i, text in enumerate(texts)
    ]
    return sample(foundation, requests, batch_size=BATCH)


def train(
    trials: Sequence[Trial],
    settings: dict[str, Any],
    foundation: Foundation,
    references: Sequence[list[Reference]],
    on_step: Callable[[int, int], None],
) -> tuple[TrainConfig, list[PathTensors]]:
    """The adapters of trials of one method, trained as one pack: each is what training it alone gives.

    Raises:
        UserError: settings that this process cannot follow: the foundation was loaded in another precision, say.
    """
    from training.config import resolve
    from training.group import group_key
    from training.local import check_local, train_local
    from training.loop import bank_slots
    from training.pack import Capacity, Ended, Failed, Member, Pack

    first = trials[0]
    bucket = foundation.defaults.bucket
    given = {**settings, "method": first.method, "seed": first.seed}
    config = resolve(given, foundation.recommended, first.references)
    check_local(foundation, config)
    clips = [encode(of, foundation) for of in references]
    if len(trials) == 1:
        alone = train_local(
            foundation,
            first.concept,
            clips[0],
            config,
            on_step=lambda report: on_step(report.step, report.steps),
        )
        return config, [alone]
    config = config.model_copy(
        update={"frames": bucket.frames, "height": bucket.height, "width": bucket.width}
    )
    spatial = sum(bank_slots(config, len(of))["spatial"] for of in clips)
    found: dict[str, PathTensors] = {}
    with Pack(foundation, group_key(foundation.fingerprint, config), Capacity(len(trials), spatial)) as pack:
        for trial, of in zip(trials, clips, strict=True):
            pack.admit(Member(trial.name, trial.concept, config, of))
        step = 0
        while pack.members:
            for event in pack.step():
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Ended):
                    found[event.name] = event.tensors
            step += 1
            on_step(step, config.steps)
    return config, [found[trial.name] for trial in trials]


def run_trials(
    trials: Sequence[Trial],
    settings: dict[str, Any],
    foundation: Foundation,
    folders: Sequence[Path],
    *,
    appearances: int = 10,
    captions: str = "full",
    on_step: Callable[[int, int], None] = lambda step, steps: None,
) -> None:
    """Train, generate, measure; writes a result for each trial.

    Args:
        trials: of one method, seed and number of reference clips: they train as one pack.
        settings: training settings over the foundation's recommendation.
        folders: of the results, one a trial.
        captions: what the reference clips' captions say (`plan.CAPTIONS`).
        on_step: called with (steps done, steps in all) while training.
    """
    references = [reference_clips(trial, captions=captions) for trial in trials]
    began = time.perf_counter()
    config: TrainConfig | None = None
    adapters: list[PathTensors] = [{} for _ in trials]
    if trials[0].method != "base":
        config, adapters = train(trials, settings, foundation, references, on_step)
    seconds = (time.perf_counter() - began) / len(trials)
    for trial, shown, tensors, folder in zip(trials, references, adapters, folders, strict=True):
        judge(trial, foundation, shown, tensors, folder, appearances, config, seconds, len(trials))


def judge(
    trial: Trial,
    foundation: Foundation,
    references: list[Reference],
    tensors: PathTensors,
    folder: Path,
    appearances: int,
    config: TrainConfig | None,
    train_seconds: float,
    packed: int,
) -> None:
    """Generate a trained trial's videos, measure them, write the result."""
    from evaluation.metrics import metrics_for
    from motiondirector.contenders import DTYPES

    texts = prompts(trial, appearances)
    began = time.perf_counter()
    videos = generate(foundation, tensors, texts, trial.seed)
    generated = time.perf_counter()
    cases = [
        Case(video, text, i, tuple(references))
        for i, (video, text) in enumerate(zip(videos, texts, strict=True))
    ]
    values = {
        metric.name: finite(metric(cases).values)
        for metric in metrics_for(references_are_sprites=True, clip=None, pickscore=None)
    }
    result = {
        "trial": asdict(trial),
        "settings": config.model_dump(mode="json") if config else {},
        "foundation_fingerprint": foundation.fingerprint,
        "generation": made_with(foundation, DTYPES[str(foundation.dtype)]),
        "prompts": texts,
        "captions": [r.caption for r in references],
        "values": values,
        # of a pack: this trial's share of it
        "seconds": {"train": train_seconds, "generate": generated - began, "packed": packed},
    }
    write(folder, result, np.stack([r.video_FHWC for r in references]), np.stack(videos))


def write(folder: Path, result: dict[str, Any], references: np.ndarray, videos: np.ndarray) -> None:
    """Each file whole or not at all, the result last: where it is, everything is."""
    with atomic_file(folder / FRAMES) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, references=references, videos=videos)
    write_json(result, folder / RESULT)
