"""A moving window over an endless stream of rendered clips, as latents, for the denoiser's batches.

Rendering and encoding a clip costs about a fifth of a training step on it. Each step adds a few new
clips and drops the oldest, so every clip is used a few times, each time with different noise and
wording. Clip n is a function of (seed, n) and the window is a function of the step, so a resumed run
sees the same clips as an uninterrupted one.

Letters: P clips in the window, C latent channels, F frames, h and w latent pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datasets.sprites.motions import SPEEDS, Motion, sample_known
from datasets.sprites.render import draw
from datasets.sprites.world import Scene, sample_scene
from training.pretraining.curriculum import Middle, Stage, draw_stage

CHUNK = 16  # clips encoded at once


@dataclass(frozen=True)
class ClipContent:
    """The content of a clip in the pool: all that its caption needs."""

    scene: Scene
    motion: Motion
    adverb: str


class ClipPool:
    """Latents of clips [step * fresh, step * fresh + size) of the stream.

    Args:
        encode: uint8 [B, F, H, W, 3] -> latents [B, C, F, h, w].
        size: clips in the window.
        fresh: new clips per step.
        stage: of the curriculum; None: the whole world.
    """

    def __init__(
        self,
        encode: Callable[[np.ndarray], Tensor],
        *,
        seed: int,
        size: int,
        fresh: int,
        frames: int,
        side: int,
        stage: Stage | None = None,
    ) -> None:
        self.encode, self.seed, self.size, self.fresh = encode, seed, size, fresh
        self.frames, self.side, self.stage = frames, side, stage
        self.contents: list[ClipContent] = [ClipContent(Scene(), Motion("", (), lambda t: {}), "")] * size
        self.latents_PCFhw: Tensor | None = None
        self.first = self.end = 0  # numbers of the clips in the window: [first, end)

    def advance(self, step: int) -> None:
        """Move the window to its position at `step`."""
        first, end = step * self.fresh, step * self.fresh + self.size
        for start in range(max(self.end, first), end, CHUNK):
            self._fill(range(start, min(start + CHUNK, end)))
        self.first, self.end = first, end

    def _fill(self, numbers: range) -> None:
        videos = []
        for number in numbers:
            rng = np.random.default_rng(np.random.SeedSequence([self.seed, 1, number]))
            if self.stage is None:
                scene = sample_scene(rng)
                (motion, adverb), place = sample_known(rng), rng
            else:
                (scene, motion, adverb), place = draw_stage(self.stage, rng), Middle()
            self.contents[number % self.size] = ClipContent(scene, motion, adverb)
            way = motion.trajectory(self.frames, place, scene.sprite.radius, SPEEDS[adverb])
            videos.append(draw(scene, way, self.side))
        latents = self.encode(np.stack(videos))
        if self.latents_PCFhw is None:
            self.latents_PCFhw = latents.new_zeros((self.size, *latents.shape[1:]))
        places = torch.tensor([number % self.size for number in numbers], device=latents.device)
        self.latents_PCFhw[places] = latents

    def draw(self, rng: np.random.Generator, count: int, *, single: bool) -> tuple[Tensor, list[ClipContent]]:
        """Draw `count` clips [B, C, F, h, w] (F is 1 for single frames), distinct if there are enough."""
        assert self.latents_PCFhw is not None, "advance the pool first"
        # draw offsets from the window's first clip, so that they do not depend on the ring buffer's position
        numbers = self.first + rng.choice(self.size, count, replace=count > self.size)
        places = torch.from_numpy(numbers % self.size).to(self.latents_PCFhw.device)
        latents = self.latents_PCFhw[places]
        if single:
            frames = torch.from_numpy(rng.integers(self.frames, size=count)).to(latents.device)
            latents = latents[torch.arange(count, device=latents.device), :, frames].unsqueeze(2)
        return latents, [self.contents[number % self.size] for number in numbers]
