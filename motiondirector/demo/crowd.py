"""The concepts of the batch demo: novel motions of the sprite world in appearances that the foundation knows.

One of them gets a damaged stored clip, and one is added late.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from datasets.clip_sets.clips import read_clips, read_manifest
from datasets.sprites.captions import canonical
from datasets.sprites.motions import NOVEL, Motion
from datasets.sprites.render import render_clip
from datasets.sprites.world import Scene, appearances
from datasets.video.writing import encode_mp4
from infra.storage import open_storage

Part = Literal["good", "late", "damaged"]
FRAMES, SIZE, FPS = 8, 64, 8.0
DAMAGED = 2  # the damaged concept's place in the manifest: early, so that it joins a pack with others


@dataclass(frozen=True)
class Member:
    """One concept with one clip of a motion."""

    motion: Motion
    scene: Scene
    seed: int  # determines the motion's position in the frame
    part: Part = "good"

    @property
    def name(self) -> str:
        """ "orbit-star"."""
        return f"{self.motion.name}-{self.scene.sprite.shape}"

    @property
    def caption(self) -> str:
        return canonical(self.scene, self.motion)

    @property
    def file(self) -> str:
        return f"{self.name}.mp4"


def crowd(good: int) -> tuple[Member, ...]:
    """`good` trainable concepts, the last of which is added late, and a damaged one among them.

    Motions and shapes are both cycled through; their numbers are coprime, so names repeat only after
    all pairs.
    """
    motions = list(NOVEL.values())
    parts: list[Part] = ["good" for _ in range(good - 1)]
    parts.append("late")
    parts.insert(min(DAMAGED, good - 1), "damaged")
    return tuple(
        Member(motions[number % len(motions)], scene, number, part)
        for number, (scene, part) in enumerate(zip(appearances(len(parts)), parts, strict=True))
    )


def render(members: Iterable[Member], folder: Path) -> Path:
    """Write the members' clips and the manifest for `motiondirector ingest`. Returns the manifest's path."""
    manifest = folder / "clips.csv"
    with manifest.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "caption", "concept"))
        for one in members:
            frames = render_clip(one.scene, one.motion, FRAMES, SIZE, one.seed)
            encode_mp4(frames, FPS, folder / one.file)
            rows.writerow((one.file, one.caption, one.name))
    return manifest


def write_batch(members: Iterable[Member], data: str, path: Path) -> Path:
    """Write the manifest for `motiondirector train-batch`. Returns its path."""
    path.write_text("".join(json.dumps({"concept": one.name, "data": data}) + "\n" for one in members))
    return path


def damage(data: str, concept: str) -> Sequence[str]:
    """Zero the second half of a concept's stored videos after ingest, as a disk or copy error may do.

    Returns the clips' ids.
    """
    storage = open_storage(data)
    clips = read_clips(data, concept)
    manifest = read_manifest(storage)
    assert manifest is not None
    for shard in manifest.shards:
        if concept not in shard.concepts:
            continue
        stored = storage.get(shard.key)
        for clip in clips:
            half = len(clip.video) // 2
            assert clip.video in stored  # the column is not compressed
            stored = stored.replace(clip.video, clip.video[:half] + bytes(len(clip.video) - half))
        storage.put(shard.key, stored)
    return [clip.clip_id for clip in clips]
