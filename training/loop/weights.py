"""Weights of the losses inside and outside of a clip's mask.

With a latent's coverage c (0 to 1) and the settings `mask_inside` and `mask_outside`, its weight is

    w = (mask_inside * c + mask_outside * (1 - c)) / mean over the clip of the same

so a clip's mean weight is 1 and the learning rate keeps its meaning. The frames of the spatial pass are weighed by
the mean over all of the clip's frames: a frame that shows more of the object counts for more.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from models.regions.layers import LatentCoverage
from training.config import TrainConfig


@dataclass(frozen=True)
class LossWeights:
    """The weights of one clip; float32, on the CPU."""

    clip_fhw: Tensor  # of the latents of the temporal pass
    frames_Fhw: Tensor  # of the latents of each frame in the spatial pass

    def frame(self, number: int) -> Tensor:
        """The weights of one frame of the spatial pass: [1, h, w]."""
        return self.frames_Fhw[number : number + 1]


def loss_weights(config: TrainConfig, coverage: LatentCoverage | None) -> LossWeights | None:
    """The weights of a clip; None if all are 1: without a mask, or if both sides have the same weight.

    Raises:
        ValueError: all of the clip would have weight 0.
    """
    if coverage is None or not config.weighs_masks:
        return None

    def weigh(covered: Tensor) -> Tensor:
        weight = config.mask_inside * covered + config.mask_outside * (1 - covered)
        mean = weight.mean()
        if not mean > 0:
            part = "covers nothing" if not config.mask_outside else "covers everything"
            raise ValueError(
                f"its mask {part} of what is trained on, so mask_inside {config.mask_inside:g} and mask_outside "
                f"{config.mask_outside:g} leave nothing to learn"
            )
        return weight / mean

    return LossWeights(weigh(coverage.latents_fhw), weigh(coverage.frames_Fhw))
