"""The motions that the uses are measured with, each learned from one clip as recommended, and videos made with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.metric import Case, Reference
from evaluation.store import Adapters, Store, key_of
from models.denoise import sample
from models.foundations.base import Foundation
from models.generation import GenerationParams, NoisePrior, SlotUse
from models.lora.bank import rank_for
from motiondirector.study.looks import Asked, full_prompts, open_prompts
from motiondirector.study.plan import Plan, Trial, settings_of, trial_key
from motiondirector.study.trial import clips_of, config_of, train

CAPTIONS = "class"
BATCH = {"cpu": 16, "cuda": 256}  # videos in one forward


@dataclass(frozen=True)
class Concept:
    """A motion that was learned from one clip with one seed."""

    motion: str
    seed: int
    adapters: Adapters
    steps: tuple[float, float] | None  # the part of the denoising steps in which it acts
    reference: Reference

    def full(self, count: int) -> list[Asked]:
        """Prompts that name every look, none of them the reference's."""
        return full_prompts(self.motion, 1, self.seed, CAPTIONS, count)

    def open(self, count: int) -> list[Asked]:
        """Prompts that name only a class."""
        return open_prompts(self.motion, 1, self.seed, CAPTIONS, count)

    def cases(self, videos: Sequence[np.ndarray], asked: Sequence[Asked]) -> list[Case]:
        """Videos of this concept, as metrics take them."""
        return [
            Case(video, one.prompt, one.seed, (self.reference,))
            for video, one in zip(videos, asked, strict=True)
        ]


def learned(
    foundation: Foundation,
    motions: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    settings: Mapping[str, Any],
    on_step: Callable[[int, int], None],
) -> list[Concept]:
    """Train the motions, those of a seed in one pack. What the folder has already is not trained again."""
    store, found = Store(folder), []
    for seed in seeds:
        plan = Plan(motions=tuple(motions), references=(1,), seeds=(seed,), settings=tuple(settings.items()))
        trials = [Trial(motion, 1, "dual", seed) for motion in plan.motions]
        configs = [config_of(trial, settings_of(plan, trial), foundation) for trial in trials]
        keys = [
            key_of(
                trial=trial_key(plan, trial, foundation.fingerprint), config=config.model_dump(mode="json")
            )
            for trial, config in zip(trials, configs, strict=True)
        ]
        missing = [i for i, key in enumerate(keys) if store.adapters(key) is None]
        made = (
            train([trials[i] for i in missing], settings_of(plan, trials[0]), foundation, on_step)
            if missing
            else []
        )
        for i, adapters in zip(missing, made, strict=True):
            store.put_adapters(keys[i], adapters)
        for trial, key, config in zip(trials, keys, configs, strict=True):
            adapters = store.adapters(key)
            assert adapters is not None
            found.append(Concept(trial.motion, seed, adapters, config.adapter_steps, clips_of(trial)[0]))
    return found


@contextmanager
def installed(foundation: Foundation, concepts: Sequence[Concept]) -> Iterator[dict[tuple[str, int], int]]:
    """Every concept in a slot of one bank during the block: the slots by motion and seed."""
    rank = rank_for([layers for concept in concepts for layers in concept.adapters.values()])
    with foundation.temporary_bank({"temporal": len(concepts)}, rank) as bank:
        for slot, concept in enumerate(concepts, 1):
            bank.write("temporal", slot, concept.adapters["temporal"])
        yield {(concept.motion, concept.seed): slot for slot, concept in enumerate(concepts, 1)}


def videos(
    foundation: Foundation,
    asked: Sequence[Asked],
    concept: Concept | None = None,
    slot: int = 0,
    *,
    scale: float = 1.0,
    noise_prior: NoisePrior | None = None,
) -> list[np.ndarray]:
    """One video [F, H, W, 3] per prompt, of the base model or of a concept in a slot."""
    uses = () if concept is None else (SlotUse(path="temporal", slot=slot, steps=concept.steps, scale=scale),)
    requests = [
        GenerationParams(prompt=one.prompt, seed=one.seed, adapters=uses, noise_prior=noise_prior)
        for one in asked
    ]
    return sample(foundation, requests, batch_size=BATCH.get(foundation.device.type, BATCH["cpu"]))
