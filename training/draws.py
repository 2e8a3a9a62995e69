"""Everything random in a training step, as functions of (seed, concept, step, rank).

No generator lives from one step to the next, so a run that is killed and continued, a concept that is trained
inside a pack, and every other rank of a run know the same draws without telling each other.

A step looks at `workers * gradient_accumulation * batch_size` samples. They are numbered through the whole run, and
the clips are dealt out in shuffled rounds: each clip is seen once before any is seen twice. A sample's draws depend
on its number within the step, so the same samples give the same step however they are spread over ranks,
accumulation and batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.seeds import generator


@dataclass(frozen=True)
class Place:
    """How the samples of one step are spread: this rank of so many, forwards per step, samples per forward."""

    rank: int = 0
    workers: int = 1
    accumulation: int = 1
    batch_size: int = 1

    @property
    def global_batch(self) -> int:
        return self.workers * self.accumulation * self.batch_size

    def indices(self, micro: int) -> range:
        """Numbers, within the step, of the samples of this rank's forward number `micro`."""
        start = (micro * self.workers + self.rank) * self.batch_size
        return range(start, start + self.batch_size)


@dataclass(frozen=True)
class Draw:
    """The random part of one sample of one step."""

    clip: int  # index of the clip
    u: float  # [0, 1): place of the timestep in the trained range
    noise_CFHW: Tensor  # float32, both paths share it
    frame: int  # spatial path: index of the one frame, in frames of the clip
    anchor: int  # temporal path: index of the anchor, in latent frames
    skip_spatial: bool  # this step has no spatial pass and no spatial LoRA
    spatial_dropout_seed: int
    temporal_dropout_seed: int


def clip_of(seed: int, concept: str, number: int, clips: int) -> int:
    """The clip of the run's sample `number`: sample n % clips of shuffled round n // clips."""
    order = torch.randperm(clips, generator=generator(seed, concept, "round", number // clips))
    return int(order[number % clips])


def clips_of_step(seed: int, concept: str, step: int, clips: int, place: Place) -> list[int]:
    """The clip of every sample of the step, on all ranks: known everywhere, so is which slots a step trains."""
    first = step * place.global_batch
    return [clip_of(seed, concept, first + i, clips) for i in range(place.global_batch)]


def skips_spatial(seed: int, concept: str, step: int, share: float) -> bool:
    """Whether this step leaves out the spatial path: one decision for all its samples."""
    return share > 0 and float(torch.rand((), generator=generator(seed, concept, step, "skip"))) < share


def draw(
    *,
    seed: int,
    concept: str,
    step: int,
    index: int,
    global_batch: int,
    clips: int,
    latent_shape: tuple[int, int, int, int],
    frames: int,
    skip_spatial: float = 0.0,
    noise_bias: float = 1.0,
    offset_noise: float = 0.0,
) -> Draw:
    """The draws of sample `index` (its number within the step).

    Args:
        latent_shape: (C, F, h, w) of a clip's latents.
        frames: frames of the clip, in pixels' time; equals F unless the model compresses time.
        noise_bias: power that the uniform u is raised to; below 1 leans to high noise.
        offset_noise: strength of the noise that all pixels of a frame share.
    """
    channels, latent_frames, _, _ = latent_shape
    g = generator(seed, concept, step, index)
    u = float(torch.rand((), generator=g, dtype=torch.float64))
    frame = int(torch.randint(frames, (), generator=g))
    anchor = int(torch.randint(latent_frames, (), generator=g))
    seeds = torch.randint(2**62, (2,), generator=g).tolist()
    noise_CFHW = torch.randn(latent_shape, generator=g)
    if offset_noise:
        noise_CFHW = noise_CFHW + offset_noise * torch.randn(channels, latent_frames, 1, 1, generator=g)
    return Draw(
        clip=clip_of(seed, concept, step * global_batch + index, clips),
        u=min(u**noise_bias, 1 - 2**-24),  # stays below 1 in float32
        noise_CFHW=noise_CFHW,
        frame=frame,
        anchor=anchor,
        skip_spatial=skips_spatial(seed, concept, step, skip_spatial),
        spatial_dropout_seed=seeds[0],
        temporal_dropout_seed=seeds[1],
    )


def latent_frame(frame: int, frames: int, latent_frames: int) -> int:
    """The latent frame that frame `frame` of the clip falls in (causal compression: frame 0 is alone in the first).

    The spatial path borrows that latent frame's noise, so that both paths share it.
    """
    if frames == latent_frames:
        return frame
    return -(-frame * (latent_frames - 1) // (frames - 1))
