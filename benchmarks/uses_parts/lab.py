"""Learns concepts from clips and makes videos with them. What its folder has already is not made again.

    lab = Lab(foundation, Path("runs/uses"), {}, say)
    with lab.with_concepts([motion("arc", seed=0)]) as [arc]:
        videos = lab.videos(arc.full(6), Part(arc, scale=0.5))

Adapters and videos lie under hashes of everything that they depend on, so uses share them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.metric import Reference
from evaluation.metrics.memo import content_key
from evaluation.store import Adapters, Store, key_of
from models.denoise import sample
from models.foundations.base import Bucket, Foundation
from models.generation import GenerationParams, InvertedNoise, SlotUse
from models.lora.bank import rank_for
from models.lora.routing import PATHS, LoraPath
from motiondirector.study.looks import Asked, full_prompts, open_prompts, reference_clips
from motiondirector.study.trial import encode
from training.config import TrainConfig, fixed_settings
from training.loop.group import GroupKey, group_key
from training.loop.member import Member
from training.recommended import resolve
from training.runs.local import train_pack, with_size

CAPTIONS = "class"
SIZE = Bucket(8, 64, 64)  # of clips and videos (`references_of`)
BATCH = {"cpu": 16, "cuda": 256}  # videos in one forward
PACK = 4  # most concepts that train in one forward: a command that is stopped loses these at most
Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Recipe:
    """What a concept is learned from."""

    name: str  # part of the draws
    clips: tuple[Reference, ...]
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)  # over those recommended for `like` clips
    like: int | None = (
        None  # the settings are those recommended for so many clips; None: for as many as there are
    )

    def config(self, foundation: Foundation, settings: Mapping[str, Any]) -> TrainConfig:
        """The settings of its training. `settings` override its own."""
        given = {**self.settings, **settings, "seed": self.seed}
        return resolve(given, foundation.recommended, self.like or len(self.clips))

    @cached_property
    def content(self) -> list[tuple[str, str]]:
        """Hashes of its clips, with their captions."""
        return [(content_key(clip.video_FHWC), clip.caption) for clip in self.clips]


def motion(name: str, seed: int) -> Recipe:
    """A motion, learned from one clip whose caption names the object's class alone, as recommended."""
    return Recipe(name, tuple(reference_clips(name, 1, seed, CAPTIONS)), seed)


def appearance(name: str, clip: Reference, seed: int) -> Recipe:
    """What a clip looks like, learned from its frames, as recommended."""
    return Recipe(name, (clip,), seed, {"method": "appearance"})


@dataclass(frozen=True, eq=False)
class Concept:
    """What was learned by a recipe."""

    recipe: Recipe
    key: str
    adapters: Adapters
    steps: tuple[float, float] | None  # the part of the denoising steps in which the motion acts

    @property
    def reference(self) -> Reference:
        return self.recipe.clips[0]

    def full(self, count: int) -> list[Asked]:
        """Prompts that name every look, none of them the reference's; for a motion of `motion`."""
        return full_prompts(self.recipe.name, 1, self.recipe.seed, CAPTIONS, count)

    def open(self, count: int) -> list[Asked]:
        """Prompts that name only a class; for a motion of `motion`."""
        return open_prompts(self.recipe.name, 1, self.recipe.seed, CAPTIONS, count)


class Part:
    """A concept in a request, with fields of `models.generation.AdapterSettings` that are not as trained."""

    def __init__(self, concept: Concept, **settings: Any) -> None:
        self.concept, self.settings = concept, settings


@dataclass(frozen=True, eq=False)
class Order:
    """One video to make."""

    asked: Asked
    parts: Sequence[Part] = ()
    noise_prior: InvertedNoise | None = None  # `source` identifies it
    outside: str | None = None


class Lab:
    """A foundation, and a folder with what was made on it.

    Args:
        settings: of every training; they override its own.
        say: told what is being done.
        steps: of denoising; None: the foundation's own.
    """

    def __init__(
        self,
        foundation: Foundation,
        folder: Path,
        settings: Mapping[str, Any],
        say: Say,
        steps: int | None = None,
    ) -> None:
        self.foundation, self.settings, self.say, self.steps = foundation, settings, say, steps
        self._store = Store(folder)
        self._slots: dict[tuple[str, LoraPath], int] = {}

    def key(self, recipe: Recipe) -> str:
        """Identifies what is learned by a recipe: everything that it depends on."""
        return key_of(
            concept=recipe.name,
            clips=recipe.content,
            settings=fixed_settings(recipe.config(self.foundation, self.settings)),
            foundation=self.foundation.fingerprint,
        )

    @contextmanager
    def with_concepts(self, recipes: Sequence[Recipe]) -> Iterator[list[Concept]]:
        """Learn what is missing; during the block `videos` and `make` can use these concepts."""
        concepts = self.learned(recipes)
        by_path: dict[LoraPath, list[Concept]] = {
            path: [one for one in {c.key: c for c in concepts}.values() if path in one.adapters]
            for path in PATHS
        }
        rank = rank_for([layers for concept in concepts for layers in concept.adapters.values()])
        slots = {path: len(those) for path, those in by_path.items() if those}
        with self.foundation.temporary_bank(slots, rank) as bank:
            for path, those in by_path.items():
                for slot, concept in enumerate(those, 1):
                    bank.write(path, slot, concept.adapters[path])
                    self._slots[concept.key, path] = slot
            try:
                yield concepts
            finally:
                self._slots.clear()

    def learned(self, recipes: Sequence[Recipe]) -> list[Concept]:
        """The concepts of recipes; those that are missing are trained, PACK at a time in one forward."""
        keys = [self.key(recipe) for recipe in recipes]
        missing: dict[GroupKey, dict[str, Member]] = {}
        for key, recipe in zip(keys, recipes, strict=True):
            if self._store.adapters(key) is None:
                config = recipe.config(self.foundation, self.settings)
                clips = encode(list(recipe.clips), self.foundation, config.looks)
                config = with_size(config, self.foundation, clips)
                group = missing.setdefault(group_key(self.foundation.fingerprint, config), {})
                group[key] = Member(key, recipe.name, config, clips)
        for group in missing.values():
            for first in range(0, len(group), PACK):
                self._train(list(group.values())[first : first + PACK])
        return [self._concept(recipe, key) for recipe, key in zip(recipes, keys, strict=True)]

    def _train(self, members: list[Member]) -> None:
        names = ", ".join(member.concept for member in members)

        def on_step(step: int, steps: int) -> None:
            self.say(f"training {names}: step {step} of {steps}")

        for member, adapters in zip(
            members, train_pack(self.foundation, members, on_step=on_step), strict=True
        ):
            self._store.put_adapters(member.name, adapters)

    def _concept(self, recipe: Recipe, key: str) -> Concept:
        adapters = self._store.adapters(key)
        assert adapters is not None, "it was trained"
        return Concept(recipe, key, adapters, recipe.config(self.foundation, self.settings).adapter_steps)

    def videos(self, asked: Sequence[Asked], *parts: Part, **settings: Any) -> list[np.ndarray]:
        """One video [F, H, W, 3] per prompt, of the base model or with concepts. `settings`: fields of `Order`."""
        return self.make([Order(one, parts, **settings) for one in asked])

    def make(self, orders: Sequence[Order]) -> list[np.ndarray]:
        """One video [F, H, W, 3] per order."""
        keys = [self._video_key(order) for order in orders]
        found = {key: video for key in dict.fromkeys(keys) if (video := self._store.video(key)) is not None}
        missing = {key: order for key, order in zip(keys, orders, strict=True) if key not in found}
        if missing:
            requests = [self._request(order) for order in missing.values()]
            made = sample(
                self.foundation,
                requests,
                batch_size=BATCH.get(self.foundation.device.type, BATCH["cpu"]),
                on_step=lambda step, steps: self.say(f"{len(requests)} videos: step {step} of {steps}"),
            )
            for key, video in zip(missing, made, strict=True):
                self._store.put_video(key, video)
                found[key] = video
        return [found[key] for key in keys]

    def _request(self, order: Order) -> GenerationParams:
        uses = [
            SlotUse(
                **{"steps": part.concept.steps, **part.settings},
                path=path,
                slot=self._slots[part.concept.key, path],
            )
            for part in order.parts
            for path in part.concept.adapters
        ]
        return GenerationParams(
            prompt=order.asked.prompt,
            seed=order.asked.seed,
            steps=self.steps,
            frames=SIZE.frames,
            height=SIZE.height,
            width=SIZE.width,
            adapters=tuple(uses),
            noise_prior=order.noise_prior,
            outside=order.outside,
        )

    def _video_key(self, order: Order) -> str:
        """Identifies a video. Concepts count by what they were learned from, not by their slots."""
        request = self._request(order).resolved(self.foundation.defaults)
        told = request.model_dump(mode="json", exclude={"adapters", "noise_prior"})
        prior = order.noise_prior
        return key_of(
            foundation=self.foundation.fingerprint,
            request=told,
            adapters=[use.model_dump(mode="json", exclude={"slot"}) for use in request.adapters],
            concepts=[part.concept.key for part in order.parts],
            noise_prior=prior and [prior.source, prior.weight],
        )
