"""All random draws of a training step, as functions of (seed, concept, step, rank).

No generator is kept between steps. So a run that is killed and continued, a concept trained in a pack,
and every rank of a run compute the same draws without communication.

A step uses `workers * gradient_accumulation * batch_size` samples. They are numbered through the whole
run, and the clips are assigned in shuffled rounds: each clip is used once before any is used twice. A
sample's draws depend on its number within the step, so a step's result does not depend on how samples
are spread over ranks, accumulation and batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.seeds import generator
from training.config import TrainConfig


@dataclass(frozen=True)
class Place:
    """Distribution of a step's samples: rank, number of workers, forwards per step, samples per forward."""

    rank: int = 0
    workers: int = 1
    accumulation: int = 1
    batch_size: int = 1

    @property
    def global_batch(self) -> int:
        return self.workers * self.accumulation * self.batch_size

    def indices(self, micro: int) -> range:
        """Indices, within the step, of the samples in this rank's forward number `micro`."""
        start = (micro * self.workers + self.rank) * self.batch_size
        return range(start, start + self.batch_size)


@dataclass(frozen=True)
class FrameDraw:
    """One frame of the spatial path."""

    frame: int  # index in the clip's frames
    level: float  # noise level, as a fraction of the schedule in [0, 1)
    noise_C1HW: Tensor  # float32


@dataclass(frozen=True)
class Draw:
    """The random part of one sample of one step."""

    clip: int  # index of the clip
    level: float  # temporal path: noise level, as a fraction of the schedule in [0, 1)
    noise_CFHW: Tensor  # float32; shared by both paths if a step has both
    anchor: int  # temporal path: index of the anchor, in latent frames
    frames: tuple[FrameDraw, ...]  # spatial path; empty: no spatial path
    temporal: bool  # whether there is a temporal path
    appearance: bool  # temporal path: the clip's spatial LoRA and appearance tokens are on
    caption: bool  # temporal path: True: the clip's caption; False: an empty caption
    spatial_dropout_seed: int
    temporal_dropout_seed: int


def clip_of(seed: int, concept: str, number: int, clips: int) -> int:
    """The clip of the run's sample `number`: sample n % clips of shuffled round n // clips."""
    order = torch.randperm(clips, generator=generator(seed, concept, "round", number // clips))
    return int(order[number % clips])


def clips_of_step(seed: int, concept: str, step: int, clips: int, place: Place) -> list[int]:
    """The clip of every sample of the step, on all ranks. So every rank knows which slots a step trains."""
    first = step * place.global_batch
    return [clip_of(seed, concept, first + i, clips) for i in range(place.global_batch)]


@dataclass(frozen=True)
class Passes:
    """The passes of a step: the same for all its samples, on every worker."""

    spatial: bool  # single frames, to learn the clip's appearance
    temporal: bool  # whole clips, to learn the motion
    appearance: bool  # the clip's spatial LoRA and appearance tokens are on


def passes_of(config: TrainConfig, concept: str, step: int) -> Passes:
    """The passes of step `step` (0-based)."""
    stage = config.stage_of(step)
    if stage == "appearance":
        return Passes(spatial=True, temporal=False, appearance=True)
    share = config.skip_spatial
    chance = generator(config.seed, concept, step, "skip")
    on = not (share > 0 and float(torch.rand((), generator=chance)) < share)
    return Passes(spatial=on and stage == "both", temporal=True, appearance=on)


def draw(
    config: TrainConfig,
    *,
    concept: str,
    step: int,
    index: int,
    global_batch: int,
    clips: int,
    latent_shape: tuple[int, int, int, int],
    frames: int,
    frame_latents: int = 1,
    boundary: float | None = None,
) -> Draw:
    """The draws of sample `index` (its number within the step).

    Args:
        config: seed, noise levels, `skip_spatial`, `caption_dropout`, and the division of steps between
            the paths.
        latent_shape: (C, F, h, w) of a clip's latents.
        frames: number of pixel frames of the clip; equals F unless the model compresses time.
        frame_latents: number of latent frames of a one-frame video, which divides F.
        boundary: noise level between the experts of a model that has two (`Foundation.boundary`).
    """
    channels, latent_frames, height, width = latent_shape
    g = generator(config.seed, concept, step, index)
    u = float(torch.rand((), generator=g, dtype=torch.float64))
    frame = int(torch.randint(frames, (), generator=g))
    anchor = int(torch.randint(latent_frames, (), generator=g))
    seeds = torch.randint(2**62, (2,), generator=g).tolist()
    noise_CFHW = torch.randn(latent_shape, generator=g)
    if config.offset_noise:
        noise_CFHW = noise_CFHW + config.offset_noise * torch.randn(
            channels, latent_frames, 1, 1, generator=g
        )
    low, high = levels = config.noise_range(step, boundary)
    bias = 1.0 if config.learns_generated(step) else config.noise_bias
    level = min(low + (high - low) * u**bias, 1 - 2**-24)  # stays below 1 in float32
    passes = passes_of(config, concept, step)
    drawn: tuple[FrameDraw, ...] = ()
    if not passes.temporal:
        size = (channels, frame_latents, height, width)
        drawn = _spread_frames(
            generator(config.seed, concept, step, index, "frames"), config, frames, size, levels
        )
    elif passes.spatial:
        at = frame_latents * latent_frame(frame, frames, latent_frames // frame_latents)
        drawn = (FrameDraw(frame, level, noise_CFHW[:, at : at + frame_latents]),)
    return Draw(
        clip=clip_of(config.seed, concept, step * global_batch + index, clips),
        level=level,
        noise_CFHW=noise_CFHW,
        anchor=anchor,
        frames=drawn,
        temporal=passes.temporal,
        appearance=passes.appearance,
        caption=not (passes.temporal and _caption_left_out(config, concept, step, index)),
        spatial_dropout_seed=seeds[0],
        temporal_dropout_seed=seeds[1],
    )


def _caption_left_out(config: TrainConfig, concept: str, step: int, index: int) -> bool:
    """Whether a sample has no caption (`caption_dropout`).

    Uses a separate generator, so the other draws do not depend on this setting.
    """
    if not config.caption_dropout:
        return False
    chance = generator(config.seed, concept, step, index, "caption")
    return float(torch.rand((), generator=chance)) < config.caption_dropout


def _spread_frames(
    g: torch.Generator,
    config: TrainConfig,
    frames: int,
    size: tuple[int, ...],
    levels: tuple[float, float],
) -> tuple[FrameDraw, ...]:
    """The frames of one sample in the appearance stage.

    Their noise levels are stratified over the range, usually the whole schedule: appearance is decided at all levels, and
    steps that cover all of them vary less.
    """
    count, (low, high) = config.appearance_frames, levels
    found = []
    for number in range(count):
        u = float(torch.rand((), generator=g, dtype=torch.float64))
        frame = int(torch.randint(frames, (), generator=g))
        level = min(low + (high - low) * ((number + u) / count), 1 - 2**-24)
        found.append(FrameDraw(frame, level, torch.randn(size, generator=g)))
    return tuple(found)


def latent_frame(frame: int, frames: int, latent_frames: int) -> int:
    """The latent frame that contains frame `frame` (causal compression: the first contains only frame 0).

    The spatial path uses that latent frame's noise, so that both paths share it.
    """
    if frames == latent_frames:
        return frame
    return -(-frame * (latent_frames - 1) // (frames - 1))
