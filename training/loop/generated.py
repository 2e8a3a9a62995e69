"""References that a run generates itself: the learned motion in other looks.

A clip shows its motion in one look, and nothing tells the temporal LoRA which of the two to learn. So, before its last steps, a
run makes videos of the motion with its own adapter and prompts that name other looks, and then learns from those too. Their looks
vary, so only the motion is left to learn.

They are made with classifier-free guidance against an empty caption, with the foundation's number of steps and guidance scale. The
adapter acts in the first half of the steps: motion is decided there, and the later steps give the looks of the prompt.

Shapes: N videos, C latent channels, F latent frames, H W latent height and width, L D text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.denoise import Denoising, denoise_step
from models.foundations.base import Foundation
from models.generation import GenerationParams, SlotUse
from models.regions.layers import LatentCoverage
from models.seeds import generator, stable_seed
from training.config import TrainConfig

ACTS = (0.0, 0.5)  # the part of the denoising steps in which the adapter acts
BATCH = 8  # videos in one forward
CLIP_SHARE = 0.25  # of the samples of the last steps: those from the clips, not from generated references
SHORT_SHARE = (
    0.5  # of the samples from generated references: those with the look's short caption, not its prompt
)


class Look(Protocol):
    """Embeddings of a prompt that names a look, and of a short caption that does not (`datasets.clip_sets.latents.LookText`)."""

    @property
    def prompt_LD(self) -> Tensor: ...
    @property
    def caption_LD(self) -> Tensor: ...


@dataclass(frozen=True)
class GeneratedClip:
    """One generated reference, as a `training.loop.step.TrainingClip`."""

    latents_CFHW: Tensor
    text_LD: Tensor
    empty_text_LD: Tensor
    looks: Sequence[Look] = ()
    coverage: LatentCoverage | None = None

    @property
    def frame_latents_FC1HW(self) -> Tensor:
        """Its latent frames. No step learns from single frames of it."""
        return self.latents_CFHW.transpose(0, 1).unsqueeze(2)


@dataclass(frozen=True)
class GeneratedDraw:
    """Which generated reference a sample learns from, and whether it has the short caption."""

    number: int
    short: bool


def draw_generated(
    config: TrainConfig, concept: str, step: int, index: int, count: int
) -> GeneratedDraw | None:
    """The generated reference of a sample, of `count`; None if the sample is of a clip.

    Uses a separate generator, so a sample's other draws do not depend on these settings.
    """
    if not count or step < config.steps - config.generated_steps:
        return None
    g = generator(config.seed, concept, step, index, "generated")
    clip, which, short = torch.rand(3, generator=g, dtype=torch.float64).tolist()
    if clip < CLIP_SHARE:
        return None
    return GeneratedDraw(min(int(which * count), count - 1), short < SHORT_SHARE)


def looks_of(config: TrainConfig, concept: str, looks: Sequence[Look]) -> list[Look]:
    """The look of each generated reference: all looks in a shuffled order, repeated as often as needed."""
    order = torch.randperm(len(looks), generator=generator(config.seed, concept, "looks")).tolist()
    return [looks[order[number % len(looks)]] for number in range(config.generated_references)]


def generate_references(
    foundation: Foundation,
    config: TrainConfig,
    concept: str,
    looks: Sequence[Look],
    empty_LD: Tensor,
    slot: int,
) -> Tensor:
    """Make the generated references of a concept. Returns latents [N, C, F, H, W], float32, on the CPU.

    Args:
        config: resolved: its frames, height and width are set.
        looks: one for each video (`looks_of`).
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
            texts=(empty_LD, look.prompt_LD),
        )
        for number, look in enumerate(looks)
    ]
    for first in range(0, len(states), BATCH):
        batch = states[first : first + BATCH]
        while batch:
            denoise_step(foundation, batch)
            batch = [one for one in batch if not one.done]
    return torch.cat([one.latents_1Cfhw for one in states]).float().cpu()
