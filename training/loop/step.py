"""One dual-path training step (arXiv 2310.08465) or baseline step: samples and draws in, losses out.

Spatial path: one frame of the clip, temporal layers and temporal LoRA off; the spatial LoRA learns
appearance. Temporal path: the whole clip, the same spatial LoRA on but without gradient, temporal LoRA
on; it learns motion with the debiased loss or `preserving` (losses.py). Both paths share noise and
timestep. Their sum is one loss with one backward: each LoRA gets its gradient from its own path only.

Each sample has its own spatial and temporal slot of the bank, so the samples of one forward may belong to
several clips, and to several concepts.

Shapes: B samples, C channels, F latent frames, H W latent height and width, L D text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from models.foundations.base import Foundation
from models.lora.routing import Mix, Routing
from models.regions.layers import LatentCoverage
from training.config import TrainConfig
from training.loop.draws import Draw
from training.loop.losses import debiased, mse, preserving, temporal_loss
from training.loop.weights import LossWeights
from training.methods import WITHOUT_SPATIAL_PASS


class TrainingClip(Protocol):
    """The clip data that a step needs (`datasets.clip_sets.latents.CachedClip` has it)."""

    @property
    def latents_CFHW(self) -> Tensor: ...
    @property
    def frame_latents_FC1HW(self) -> Tensor: ...
    @property
    def text_LD(self) -> Tensor: ...
    @property
    def empty_text_LD(self) -> Tensor: ...  # embedding of an empty caption
    @property
    def look_texts(self) -> tuple[Tensor, ...]: ...  # of the prompts for generated references
    @property
    def coverage(self) -> LatentCoverage | None: ...  # of the clip's mask; None: no mask


@dataclass(frozen=True)
class Sample:
    """One sample of a step: a clip, its slots, its draws."""

    clip: TrainingClip
    draw: Draw
    spatial_slot: int
    temporal_slot: int
    weights: LossWeights | None = None  # of the clip's mask; None: 1 everywhere


@dataclass(frozen=True)
class OwnSettings:
    """Per-sample settings of a forward that several concepts share; float64 [B], on the CPU."""

    beta_B: Tensor
    debias_B: Tensor  # 1; 0 leaves the debiased term of the temporal loss out (method no-debias)

    @classmethod
    def of(cls, configs: Sequence[TrainConfig]) -> OwnSettings:
        """From the settings of each sample's concept."""

        def vector(values: Iterable[float]) -> Tensor:
            return torch.tensor(list(values), dtype=torch.float64)

        return cls(
            beta_B=vector(config.beta for config in configs),
            debias_B=vector(config.method != "no-debias" for config in configs),
        )

    def pick(self, samples: Sequence[int]) -> OwnSettings:
        """The settings of some of the samples."""
        index = torch.tensor(samples, dtype=torch.long)
        return OwnSettings(self.beta_B[index], self.debias_B[index])


@dataclass(frozen=True)
class Rows:
    """The N inputs of one pass; `sample` is the index of the step's sample that each belongs to."""

    sample: tuple[int, ...]
    x0: Tensor  # [N, C, F, H, W], F = 1 in the spatial pass
    noise: Tensor
    level_N: Tensor  # noise level, as a fraction of the schedule in [0, 1)
    text_NLD: Tensor
    spatial_slots: tuple[int, ...]  # 0: the clip's appearance is off
    temporal_slots: tuple[int, ...]
    seeds: tuple[int, ...]  # dropout seeds
    weight: Tensor | None = None  # of the losses, [N, 1, F, H, W]; None: 1 everywhere


@dataclass(frozen=True)
class Batch:
    """The samples of one step, collated on the device. A pass without samples is None."""

    size: int  # number of samples
    frames: Rows | None  # spatial pass: one or more rows per sample
    clips: Rows | None  # temporal pass: at most one row per sample
    anchor_N: Tensor  # anchor frame of each row of `clips`
    own: OwnSettings | None = None  # None: the step's settings apply to every sample


@dataclass(frozen=True)
class DualLoss:
    """Losses of each sample, float32 [B]. A sample without a row in a pass has loss 0 there."""

    spatial_B: Tensor
    temporal_B: Tensor

    @property
    def total(self) -> Tensor:
        """The scalar loss for the backward pass when all samples belong to one concept."""
        return (self.spatial_B + self.temporal_B).mean()


def collate(samples: Sequence[Sample], device: torch.device | str, own: OwnSettings | None = None) -> Batch:
    """Collate samples into a batch. All clips must have the same latent shape."""
    frames = [(i, s, frame) for i, s in enumerate(samples) for frame in s.draw.frames]
    clips = [(i, s) for i, s in enumerate(samples) if s.draw.temporal]

    def stack(tensors: Iterable[Tensor]) -> Tensor:
        return torch.stack(list(tensors)).to(device, torch.float32)

    def levels(values: Iterable[float]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.float32, device=device)

    def weights(found: Sequence[Tensor | None], like: Tensor) -> Tensor | None:
        """The weights [F, H, W] of each row of `like`: ones for rows that have none; None if no row has any."""
        if all(one is None for one in found):
            return None
        ones = torch.ones(like.shape[2:])
        return stack(ones if one is None else one.expand_as(ones) for one in found).unsqueeze(1)

    frame_rows = clip_rows = None
    if frames:
        x0 = stack(s.clip.frame_latents_FC1HW[frame.frame] for _, s, frame in frames)
        frame_rows = Rows(
            sample=tuple(i for i, _, _ in frames),
            x0=x0,
            noise=stack(frame.noise_C1HW for _, _, frame in frames),
            level_N=levels(frame.level for _, _, frame in frames),
            text_NLD=stack(s.clip.text_LD for _, s, _ in frames),
            spatial_slots=tuple(s.spatial_slot for _, s, _ in frames),
            temporal_slots=(0,) * len(frames),
            seeds=tuple(
                s.draw.spatial_dropout_seed + number for s in samples for number in range(len(s.draw.frames))
            ),
            weight=weights(
                [s.weights.frame(frame.frame) if s.weights else None for _, s, frame in frames], x0
            ),
        )
    if clips:
        x0 = stack(s.clip.latents_CFHW for _, s in clips)
        clip_rows = Rows(
            sample=tuple(i for i, _ in clips),
            x0=x0,
            noise=stack(s.draw.noise_CFHW for _, s in clips),
            level_N=levels(s.draw.level for _, s in clips),
            text_NLD=stack(s.clip.text_LD if s.draw.caption else s.clip.empty_text_LD for _, s in clips),
            spatial_slots=tuple(s.spatial_slot if s.draw.appearance else 0 for _, s in clips),
            temporal_slots=tuple(s.temporal_slot for _, s in clips),
            seeds=tuple(s.draw.temporal_dropout_seed for _, s in clips),
            weight=weights([s.weights.clip_fhw if s.weights else None for _, s in clips], x0),
        )
    anchors = torch.tensor([s.draw.anchor for _, s in clips], dtype=torch.long, device=device)
    return Batch(len(samples), frame_rows, clip_rows, anchors, own)


def dual_path_losses(foundation: Foundation, batch: Batch, config: TrainConfig) -> DualLoss:
    """Compute L_s and L_t of every sample of the batch.

    Args:
        config: `method`, `beta`, `appearance_preservation` and `dropout` are used. All samples share
            them, except for the per-sample settings of `batch.own`.
    """
    return DualLoss(_spatial(foundation, batch, config), _temporal(foundation, batch, config))


def _mix(slots: Sequence[int], device: torch.device, frozen: bool = False) -> Mix | None:
    """The mix of these slots; None if all are slot 0, so that no layer does useless work."""
    return Mix.of([[slot] for slot in slots], device=device, frozen=frozen) if any(slots) else None


def _spatial(foundation: Foundation, batch: Batch, config: TrainConfig) -> Tensor:
    """Mean loss over each sample's frames."""
    rows = batch.frames
    losses_B = torch.zeros(batch.size, device=foundation.device)
    if rows is None:
        return losses_B
    routing = Routing(
        spatial=_mix(rows.spatial_slots, foundation.device), dropout=config.dropout, seeds=rows.seeds
    )
    noised = _noised(foundation, rows)
    losses_N = mse(_answer(foundation, noised, routing), noised.target, rows.weight)
    counts = Counter(rows.sample)
    share_N = torch.tensor([1 / counts[i] for i in rows.sample], device=losses_N.device)
    return losses_B.index_add(0, _index(rows, losses_N), losses_N * share_N)


def _temporal(foundation: Foundation, batch: Batch, config: TrainConfig) -> Tensor:
    """Temporal loss of each sample; plain MSE for the baselines that train one pass alone."""
    rows = batch.clips
    losses_B = torch.zeros(batch.size, device=foundation.device)
    if rows is None:
        return losses_B
    device, together = foundation.device, config.method == "coupled"
    if config.method == "full":  # no dropout: there is no LoRA, so it would drop outputs of the layer itself
        routing = Routing(temporal=_mix(rows.temporal_slots, device))
    else:
        routing = Routing(
            spatial=_mix(rows.spatial_slots, device, frozen=not together),
            temporal=_mix(rows.temporal_slots, device),
            dropout=config.dropout,
            seeds=rows.seeds,
        )
    noised = _noised(foundation, rows, frozen=not together)
    pred, target, weight = _answer(foundation, noised, routing), noised.target, rows.weight
    if config.method in WITHOUT_SPATIAL_PASS:
        losses_N = mse(pred, target, weight)
    elif config.appearance_preservation:
        with torch.no_grad():
            base = _answer(foundation, noised, Routing(spatial=routing.spatial))
        losses_N = preserving(pred, target, base, config.appearance_preservation, weight)
    elif batch.own is not None:
        own = batch.own.pick(rows.sample)
        common_N = debiased(pred, target, batch.anchor_N, own.beta_B, weight)
        losses_N = mse(pred, target, weight) + own.debias_B.to(common_N) * common_N
    elif config.method == "no-debias":
        losses_N = mse(pred, target, weight)
    else:
        losses_N = temporal_loss(pred, target, batch.anchor_N, config.beta, weight)
    return losses_B.index_add(0, _index(rows, losses_N), losses_N)


def _index(rows: Rows, like: Tensor) -> Tensor:
    return torch.tensor(rows.sample, dtype=torch.long, device=like.device)


@dataclass(frozen=True)
class _Noised:
    """The model's inputs in one pass, and the target of its prediction."""

    x_t: Tensor
    t_N: Tensor
    text_NLD: Tensor
    target: Tensor


def _noised(foundation: Foundation, rows: Rows, frozen: bool = False) -> _Noised:
    """Noise the rows and compute their targets.

    Args:
        frozen: use the appearance tokens without a gradient.
    """
    assert foundation.bank is not None
    text_NLD = foundation.bank.with_tokens(rows.text_NLD, rows.spatial_slots)
    if frozen:
        text_NLD = text_NLD.detach()
    t_N = foundation.noise.timesteps(rows.level_N)
    x_t, target = foundation.noised(rows.x0, rows.noise, t_N)
    return _Noised(x_t, t_N, text_NLD, target)


def _answer(foundation: Foundation, asked: _Noised, routing: Routing) -> Tensor:
    """The model's prediction with these adapters."""
    return foundation.predict(asked.x_t, asked.t_N, asked.text_NLD, routing)


class DualStep(nn.Module):
    """`dual_path_losses` as a module over the denoiser and its trainable bank, for a DeepSpeed engine.

    Returns (spatial_B, temporal_B).
    """

    def __init__(self, foundation: Foundation, config: TrainConfig) -> None:
        super().__init__()
        assert foundation.bank is not None, "add a trainable bank first"
        assert foundation.bank.trainable, "the bank must be trainable"
        self.denoiser = foundation.denoiser
        self.bank = foundation.bank
        self._foundation = [foundation]  # in a list, so that it is not registered as a submodule
        self.config = config

    @property
    def foundation(self) -> Foundation:
        return self._foundation[0]

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        losses = dual_path_losses(self.foundation, batch, self.config)
        return losses.spatial_B, losses.temporal_B
