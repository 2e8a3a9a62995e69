"""One dual-path training step (arXiv 2310.08465), pure: samples and draws in, losses out. And those of the baselines.

Spatial path: one frame of the clip, temporal layers and temporal LoRA off; teaches the spatial LoRA appearance.
Temporal path: the whole clip, the same spatial LoRA on but without gradient, temporal LoRA on; teaches motion,
under the debiased loss. Both share noise and timestep. Their sum is one loss with one backward: the spatial LoRA
gets its gradient from the first alone, the temporal one from the second alone.

Every sample has its own spatial and temporal slot of the bank, so the samples of one forward may belong to
several clips, and to several concepts.

Shapes: B samples, C channels, F latent frames, H W latent height and width, L D text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from models.foundation import Foundation
from models.routing import Mix, Routing
from training.config import TrainConfig
from training.draws import Draw, latent_frame
from training.losses import debiased, mse, temporal_loss


class TrainingClip(Protocol):
    """What a step needs of a clip (`datasets.latents.CachedClip` is one)."""

    @property
    def latents_CFHW(self) -> Tensor: ...
    @property
    def frame_latents_FC1HW(self) -> Tensor: ...
    @property
    def text_LD(self) -> Tensor: ...


@dataclass(frozen=True)
class Sample:
    """One sample of a step: a clip, its slots, its draws."""

    clip: TrainingClip
    draw: Draw
    spatial_slot: int
    temporal_slot: int


@dataclass(frozen=True)
class OwnSettings:
    """What each sample of a forward has of its own, where several concepts share it; float64 [B], on the CPU."""

    beta_B: Tensor
    debias_B: Tensor  # 1; 0 leaves the debiased term of the temporal loss out (method no-debias)
    timestep_low_B: Tensor
    timestep_high_B: Tensor

    @classmethod
    def of(cls, configs: Sequence[TrainConfig]) -> OwnSettings:
        """From the settings of each sample's concept."""

        def vector(values: Iterable[float]) -> Tensor:
            return torch.tensor(list(values), dtype=torch.float64)

        return cls(
            beta_B=vector(config.beta for config in configs),
            debias_B=vector(config.method != "no-debias" for config in configs),
            timestep_low_B=vector(config.timestep_low for config in configs),
            timestep_high_B=vector(config.timestep_high for config in configs),
        )


@dataclass(frozen=True)
class Batch:
    """The samples of one forward, collated on the device."""

    latents_BCFHW: Tensor
    noise_BCFHW: Tensor
    frame_BC1HW: Tensor
    frame_noise_BC1HW: Tensor
    text_BLD: Tensor
    u_B: Tensor  # [0, 1): place in the timestep range
    anchor_B: Tensor
    spatial_slots: tuple[int, ...]
    temporal_slots: tuple[int, ...]
    spatial_seeds: tuple[int, ...]
    temporal_seeds: tuple[int, ...]
    skip_spatial: tuple[bool, ...]
    own: OwnSettings | None = None  # None: the settings of the step hold for every sample


@dataclass(frozen=True)
class DualLoss:
    """Losses of each sample, float32 [B]. `spatial_B` is 0 where the spatial pass was skipped."""

    spatial_B: Tensor
    temporal_B: Tensor

    @property
    def total(self) -> Tensor:
        """The scalar to go backward from when all samples belong to one concept."""
        return (self.spatial_B + self.temporal_B).mean()


def collate(samples: Sequence[Sample], device: torch.device | str, own: OwnSettings | None = None) -> Batch:
    """The batch of these samples. All clips must have one latent shape."""

    def stack(tensors: list[Tensor]) -> Tensor:
        return torch.stack(tensors).to(device, torch.float32)

    frames, frame_noises = [], []
    for sample in samples:
        draw, clip = sample.draw, sample.clip
        frames.append(clip.frame_latents_FC1HW[draw.frame])
        at = latent_frame(draw.frame, len(clip.frame_latents_FC1HW), clip.latents_CFHW.shape[1])
        frame_noises.append(draw.noise_CFHW[:, at : at + 1])
    return Batch(
        latents_BCFHW=stack([s.clip.latents_CFHW for s in samples]),
        noise_BCFHW=stack([s.draw.noise_CFHW for s in samples]),
        frame_BC1HW=stack(frames),
        frame_noise_BC1HW=stack(frame_noises),
        text_BLD=stack([s.clip.text_LD for s in samples]),
        u_B=torch.tensor([s.draw.u for s in samples], dtype=torch.float32, device=device),
        anchor_B=torch.tensor([s.draw.anchor for s in samples], device=device),
        spatial_slots=tuple(s.spatial_slot for s in samples),
        temporal_slots=tuple(s.temporal_slot for s in samples),
        spatial_seeds=tuple(s.draw.spatial_dropout_seed for s in samples),
        temporal_seeds=tuple(s.draw.temporal_dropout_seed for s in samples),
        skip_spatial=tuple(s.draw.skip_spatial for s in samples),
        own=own,
    )


def dual_path_losses(foundation: Foundation, batch: Batch, config: TrainConfig) -> DualLoss:
    """L_s and L_t of every sample of the batch.

    Args:
        config: `method`, `beta`, `dropout` and the timestep range are used. The samples of one forward share them,
            but for those that `batch.own` gives each of its own.
    """
    low, high = (
        (config.timestep_low, config.timestep_high)
        if batch.own is None
        else (batch.own.timestep_low_B, batch.own.timestep_high_B)
    )
    t_B = foundation.noise.timesteps(batch.u_B, low, high)
    if config.method == "coupled":
        return DualLoss(torch.zeros_like(batch.u_B), _coupled(foundation, batch, config, t_B))
    if config.method == "full":
        return DualLoss(torch.zeros_like(batch.u_B), _full(foundation, batch, config, t_B))
    return DualLoss(_spatial(foundation, batch, config, t_B), _temporal(foundation, batch, config, t_B))


def _mix(slots: Sequence[int], device: torch.device, frozen: bool = False) -> Mix:
    return Mix.of([[slot] for slot in slots], device=device, frozen=frozen)


def _spatial(foundation: Foundation, batch: Batch, config: TrainConfig, t_B: Tensor) -> Tensor:
    kept = [i for i, skipped in enumerate(batch.skip_spatial) if not skipped]
    losses_B = torch.zeros_like(batch.u_B)
    if not kept:
        return losses_B
    index = torch.tensor(kept, device=t_B.device)
    x0, noise, t = batch.frame_BC1HW[index], batch.frame_noise_BC1HW[index], t_B[index]
    routing = Routing(
        spatial=_mix([batch.spatial_slots[i] for i in kept], t_B.device),
        dropout=config.dropout,
        seeds=tuple(batch.spatial_seeds[i] for i in kept),
    )
    pred = foundation.predict(foundation.noise.add(x0, noise, t), t, batch.text_BLD[index], routing)
    return losses_B.index_put((index,), mse(pred, foundation.noise.target(x0, noise, t)))


def _temporal(foundation: Foundation, batch: Batch, config: TrainConfig, t_B: Tensor) -> Tensor:
    spatial = [
        0 if skip else slot for slot, skip in zip(batch.spatial_slots, batch.skip_spatial, strict=True)
    ]
    # All off: no layer need be asked for nothing.
    mix = _mix(spatial, t_B.device, frozen=True) if any(spatial) else None
    routing = _learning(batch, config, t_B, mix)
    pred, target = _on_clips(foundation, batch, t_B, routing)
    if batch.own is not None:
        common_B = debiased(pred, target, batch.anchor_B, batch.own.beta_B)
        return mse(pred, target) + batch.own.debias_B.to(common_B) * common_B
    if config.method == "no-debias":
        return mse(pred, target)
    return temporal_loss(pred, target, batch.anchor_B, config.beta)


def _coupled(foundation: Foundation, batch: Batch, config: TrainConfig, t_B: Tensor) -> Tensor:
    routing = _learning(batch, config, t_B, _mix(batch.spatial_slots, t_B.device))
    return mse(*_on_clips(foundation, batch, t_B, routing))


def _full(foundation: Foundation, batch: Batch, config: TrainConfig, t_B: Tensor) -> Tensor:
    """The plain loss of fine-tuning. What learns is no LoRA, so it has no dropout, which would thin the layer itself."""
    routing = Routing(temporal=_mix(batch.temporal_slots, t_B.device))
    return mse(*_on_clips(foundation, batch, t_B, routing))


def _learning(batch: Batch, config: TrainConfig, t_B: Tensor, spatial: Mix | None) -> Routing:
    """The temporal LoRA learns, beside a spatial one."""
    return Routing(
        spatial=spatial,
        temporal=_mix(batch.temporal_slots, t_B.device),
        dropout=config.dropout,
        seeds=batch.temporal_seeds,
    )


def _on_clips(foundation: Foundation, batch: Batch, t_B: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
    """(prediction, target) on the whole clips."""
    x0, noise = batch.latents_BCFHW, batch.noise_BCFHW
    pred = foundation.predict(foundation.noise.add(x0, noise, t_B), t_B, batch.text_BLD, routing)
    return pred, foundation.noise.target(x0, noise, t_B)


class DualStep(nn.Module):
    """`dual_path_losses` as a module over the denoiser and its trainable bank: what a DeepSpeed engine wraps.

    Returns (spatial_B, temporal_B).
    """

    def __init__(self, foundation: Foundation, config: TrainConfig) -> None:
        super().__init__()
        assert foundation.bank is not None, "add a trainable bank first"
        assert foundation.bank.trainable, "the bank must be trainable"
        self.denoiser = foundation.denoiser
        self.bank = foundation.bank
        self._foundation = [foundation]  # in a list: the foundation is no submodule
        self.config = config

    @property
    def foundation(self) -> Foundation:
        return self._foundation[0]

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        losses = dual_path_losses(self.foundation, batch, self.config)
        return losses.spatial_B, losses.temporal_B
