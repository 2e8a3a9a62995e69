"""References that a run generates itself: the learned motion in other looks.

A clip shows its motion in one look, and nothing tells the temporal LoRA which of the two to learn. So, before its last steps, a
run makes videos of the motion with its own adapter and prompts that name other looks, and then learns from those too. Their looks
vary, so only the motion is left to learn.

They are made with classifier-free guidance against an empty caption, with the foundation's number of steps and guidance scale. Each
begins not at noise alone but at a clip, noised so much that its looks are gone and where things move is not. The adapter acts in
the first half of the steps: motion is decided there, and the later steps give the looks of the prompt.

Shapes: N videos, C latent channels, F latent frames, H W latent height and width, L D text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from models.denoise import Denoising, denoise
from models.foundations.base import Foundation
from models.generation import GenerationParams, SlotUse
from models.regions.layers import LatentCoverage
from models.seeds import generator, stable_seed
from training.config import TrainConfig

Look = TypeVar("Look")
ACTS = (0.0, 0.5)  # the part of the denoising steps in which the adapter acts
BEGIN = 1 / 6  # share of the denoising steps that are left out, because a video begins at a noised clip
BATCH = 8  # videos in one forward
CLIP_SHARE = 0.25  # of the samples of the last steps: those from the clips, not from generated references


@dataclass(frozen=True)
class GeneratedClip:
    """One generated reference, as a `training.loop.step.TrainingClip`."""

    latents_CFHW: Tensor
    text_LD: Tensor
    empty_text_LD: Tensor
    look_texts: tuple[Tensor, ...] = ()
    coverage: LatentCoverage | None = None

    @property
    def frame_latents_FC1HW(self) -> Tensor:
        """Its latent frames. No step learns from single frames of it."""
        return self.latents_CFHW.transpose(0, 1).unsqueeze(2)


def draw_generated(config: TrainConfig, concept: str, step: int, index: int, count: int) -> int | None:
    """The number of the generated reference, of `count`, that a sample learns from; None if it learns from a clip.

    Uses a separate generator, so a sample's other draws do not depend on these settings.
    """
    if not count or not config.learns_generated(step):
        return None
    g = generator(config.seed, concept, step, index, "generated")
    clip, which = torch.rand(2, generator=g, dtype=torch.float64).tolist()
    return None if clip < CLIP_SHARE else min(int(which * count), count - 1)


def look_of_each(config: TrainConfig, concept: str, looks: Sequence[Look]) -> list[Look]:
    """The look of each generated reference: all looks in a shuffled order, repeated as often as needed."""
    assert looks, "prepare the clips with the prompts for generated references"
    order = torch.randperm(len(looks), generator=generator(config.seed, concept, "looks")).tolist()
    return [looks[order[number % len(looks)]] for number in range(config.generated_references)]


def generate_references(
    foundation: Foundation,
    config: TrainConfig,
    concept: str,
    clips: Sequence[Tensor],
    texts: Sequence[Tensor],
    empty_LD: Tensor,
    slot: int,
) -> Tensor:
    """Make the generated references of a concept. Returns latents [N, C, F, H, W], float32, on the CPU.

    Args:
        config: resolved: its frames, height and width are set.
        clips: latents [C, F, H, W] of the concept's clips, at which the videos begin in turn.
        texts: the embedding [L, D] of each video's prompt (`look_of_each`).
        empty_LD: the embedding of an empty caption.
        slot: the temporal slot of the foundation's bank that holds the concept's adapter.
    """
    states = [
        Denoising(
            foundation,
            GenerationParams(
                prompt="",
                seed=stable_seed(config.seed, concept, "generated", number),
                frames=config.frames,
                height=config.height,
                width=config.width,
                adapters=(SlotUse(path="temporal", slot=slot, steps=ACTS),),
            ),
            texts=(empty_LD, text_LD),
        )
        for number, text_LD in enumerate(texts)
    ]
    for number, one in enumerate(states):
        one.begin_at(round(BEGIN * len(one.timesteps)), clips[number % len(clips)])
    denoise(foundation, states, batch_size=BATCH)
    return torch.cat([one.latents_1Cfhw for one in states]).float().cpu()
