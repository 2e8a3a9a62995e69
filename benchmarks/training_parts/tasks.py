"""The concepts that every side trains: rendered sprites in novel motions, one clip each."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from datasets.clip_sets.clips import Clip, make_clip
from datasets.clip_sets.latents import CachedClip, latents_of, text_of
from datasets.clip_sets.parquet import Pending, append
from datasets.sprites.captions import canonical
from datasets.sprites.motions import NOVEL
from datasets.sprites.render import render_clip
from datasets.sprites.world import appearances
from infra.storage import open_storage
from models.foundations.base import Bucket, Foundation
from training.config import TrainConfig
from training.loop.draws import Place
from training.loop.member import Member
from training.loop.step import Batch, collate
from training.recommended import resolve


@dataclass(frozen=True)
class Task:
    """One concept: its cached clips and its settings with their size."""

    concept: str
    clips: list[CachedClip]
    config: TrainConfig

    def batch(self, step: int, device: torch.device) -> Batch:
        """The draws of a step (0-based): a function of (seed, concept, step), so the same for every side."""
        place = Place(batch_size=self.config.batch_size)
        member = Member(self.concept, self.concept, self.config, self.clips)
        return collate([member.sample(step, index, place) for index in place.indices(0)], device)


def settings(foundation: Foundation, **own: Any) -> TrainConfig:
    """The paper's setting at the foundation's size with both passes in every step, overridden by `own`. All sides support it."""
    bucket = foundation.defaults.bucket
    sizes = {"frames": bucket.frames, "height": bucket.height, "width": bucket.width}
    paper = {"method": "motiondirector", "skip_spatial": 0.0}
    return resolve({**paper, **sizes, **own}, foundation.recommended)


def concept_name(number: int) -> str:
    return f"concept-{number:03d}"


def sprite_clips(bucket: Bucket, concepts: int) -> Iterator[Clip]:
    """A clip of a novel motion for each concept."""
    motions = list(NOVEL.values())
    for number, scene in enumerate(appearances(concepts, seed=1)):
        motion = motions[number % len(motions)]
        frames_FHWC = render_clip(scene, motion, bucket.frames, bucket.height, seed=number)
        yield make_clip(
            concept=concept_name(number),
            caption=canonical(scene, motion),
            frames_FHWC=frames_FHWC,
            fps=8,
            source_uri=f"{number}.mp4",
            source_sha256=str(number),
        )


def write_clip_set(uri: str, bucket: Bucket, concepts: int) -> None:
    """Write a clip set of these concepts."""
    with tempfile.TemporaryDirectory() as folder:
        spool = open_storage(folder)
        clips = sprite_clips(bucket, concepts)
        append(open_storage(uri), [Pending.spooled(clip, spool) for clip in clips], spool)


def tasks(foundation: Foundation, concepts: int, **own: Any) -> list[Task]:
    """Concepts in memory, encoded by this foundation."""
    config = settings(foundation, **own)
    return [
        Task(clip.concept, [cached(clip, foundation)], config)
        for clip in sprite_clips(foundation.defaults.bucket, concepts)
    ]


def cached(clip: Clip, foundation: Foundation) -> CachedClip:
    """A clip in the latent cache's format, made without the cache."""
    visual = latents_of(clip.frames_FHWC(), foundation, clip.concept)
    text_LD = text_of(clip.caption, foundation)
    return CachedClip.of(clip.clip_id, clip.sha256, clip.caption, visual, text_LD, text_of("", foundation))
