"""How well a foundation follows prompts of the sprite world, measured by the exact tracker.

Each score is the share of prompts done right, in [0, 1]; higher is better:
- colour, texture, shape: most frames show the named one; background: most frames show the named colour
  and kind;
- motion: for prompts with a direction, the displacement from first to last frame is within 20 degrees of
  the named direction and within 25 % of the named length; direction: the angle alone; stillness: for
  "stays still" prompts, the object moves less than 6 % of the frame;
- presence: the object is found in every frame.
If the object is not found, everything but the background counts as wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.sprites.captions import caption
from datasets.sprites.motions import DIRECTIONS, KNOWN, SPEEDS, TRAVEL, Motion
from datasets.sprites.track import Track, track
from datasets.sprites.world import Scene, appearances
from datasets.video.writing import contact_sheet
from models.denoise import sample
from models.foundations.base import Foundation
from models.generation import GenerationParams

TARGETS = {"colour": 0.97, "shape": 0.90, "background": 0.95, "motion": 0.95, "presence": 0.97}
ANGLE = 20.0  # degrees
LENGTH = 0.25  # relative
STILL = 0.06  # frame widths


@dataclass(frozen=True)
class Prompt:
    """One prompt with the scene and motion it describes."""

    scene: Scene
    motion: Motion
    adverb: str
    text: str


@dataclass(frozen=True)
class Score:
    """The share of `count` prompts that were done right."""

    share: float
    count: int


@dataclass(frozen=True)
class Quality:
    """Scores by name with their evidence: prompts, frames [F, H, W, 3], measurements and judgements."""

    scores: dict[str, Score]
    prompts: list[Prompt]
    clips: list[np.ndarray]
    tracks: list[Track]
    rights: list[dict[str, bool]]


def draw_prompts(count: int, seed: int = 1) -> list[Prompt]:
    """Draw paraphrased prompts that cycle through directions and stillness, with evenly spread looks."""
    rng = np.random.default_rng(seed)
    names = [*DIRECTIONS, *DIRECTIONS, "still"]
    prompts = []
    for i, scene in enumerate(appearances(count, seed)):
        motion = KNOWN[names[i % len(names)]]
        adverb = str(rng.choice(list(SPEEDS), p=[0.1, 0.8, 0.1])) if motion.speeds else ""
        prompts.append(Prompt(scene, motion, adverb, caption(scene, motion, rng, adverb)))
    return prompts


def judge(prompt: Prompt, seen: Track) -> dict[str, bool]:
    """Which parts of the prompt the video shows, by score name; scores that do not apply are absent."""
    sprite, background = prompt.scene.sprite, prompt.scene.background
    right = {
        "colour": seen.most("colour") == sprite.colour,
        "shape": seen.most("shape") == sprite.shape,
        "texture": seen.most("texture") == sprite.texture,
        "background": (seen.most("background"), seen.most("background_kind"))
        == (background.colour, background.kind),
        "presence": seen.present,
    }
    moved = seen.displacement()
    length = float(np.hypot(*moved))
    if prompt.motion.name in DIRECTIONS:
        way = np.array(DIRECTIONS[prompt.motion.name], float)
        cosine = float(moved @ way) / max(length * float(np.hypot(*way)), 1e-9)
        meant = TRAVEL * SPEEDS[prompt.adverb]
        right["direction"] = bool(length > 0.03 and cosine > np.cos(np.radians(ANGLE)))
        right["motion"] = right["direction"] and abs(length / meant - 1) < LENGTH
    elif prompt.motion.name == "still":
        right["stillness"] = bool(length < STILL)
    return right


def measure_quality(
    foundation: Foundation,
    count: int = 320,
    *,
    seed: int = 1,
    steps: int | None = None,
    guidance_scale: float | None = None,
    batch: int = 8,
    follow: Callable[[list[int]], Iterable[int]] = lambda batches: batches,
) -> Quality:
    """Sample `count` prompts and measure each clip. `follow` wraps the iteration (for a progress bar)."""
    prompts = draw_prompts(count, seed)
    clips: list[np.ndarray] = []
    for first in follow(list(range(0, count, batch))):
        requests = [
            GenerationParams(
                prompt=p.text,
                seed=seed * 100_000 + first + i,
                steps=steps,
                guidance_scale=guidance_scale,
            )
            for i, p in enumerate(prompts[first : first + batch])
        ]
        clips += sample(foundation, requests, batch_size=batch)
    tracks = [track(clip) for clip in clips]
    rights = [judge(prompt, seen) for prompt, seen in zip(prompts, tracks, strict=True)]
    scores = {}
    for name in ("colour", "shape", "background", "motion", "presence", "direction", "stillness", "texture"):
        values = [right[name] for right in rights if name in right]
        if values:
            scores[name] = Score(float(np.mean(values)), len(values))
    return Quality(scores, prompts, clips, tracks, rights)


def write_report(quality: Quality, foundation: Foundation, folder: Path, *, rows: int = 24) -> None:
    """Write quality.json (scores, judgements of all prompts) and sheet.png (the first clips) to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "foundation": {"name": foundation.name, "fingerprint": foundation.fingerprint},
        "scores": {name: {"share": s.share, "count": s.count} for name, s in quality.scores.items()},
        "targets": TARGETS,
        "prompts": [
            {"prompt": p.text, **right, "confidence": round(t.confidence, 3)}
            for p, right, t in zip(quality.prompts, quality.rights, quality.tracks, strict=True)
        ],
    }
    (folder / "quality.json").write_text(json.dumps(record, indent=1))
    shown = [
        (p.text + "  [wrong: " + (", ".join(k for k, ok in right.items() if not ok) or "nothing") + "]", clip)
        for p, right, clip in zip(quality.prompts[:rows], quality.rights, quality.clips, strict=False)
    ]
    contact_sheet(shown, cell_width=64).save(folder / "sheet.png")
