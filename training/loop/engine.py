"""The engines of a pack: forward, backward and update of one step, in one process or in several.

`Engine` is plain torch in one process. `TeamEngine` averages the gradients over the workers of a lane. The engines in
training/loop/deepspeed_engines.py also shard the model. At ZeRO 0 on one worker all give the same bits (tested).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from models.lora.bank import AdapterBank
from training.config import TrainConfig
from training.loop.draws import Place
from training.loop.optim import SlotAdamW
from training.loop.step import Batch, DualStep


class Engine:
    """Forward, backward and update of one training step, with plain torch in one process. Subclasses use several workers."""

    def __init__(self, module: DualStep, optimizer: SlotAdamW) -> None:
        config = module.config
        self.module, self.optimizer = module, optimizer
        self.place = Place(accumulation=config.gradient_accumulation, batch_size=config.batch_size)
        self._backwards = 0

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(L_s, L_t) of each sample."""
        return self.module(batch)

    def backward(self, loss: Tensor) -> None:
        """Add this forward's share of the step's gradient."""
        (loss / self.place.accumulation).backward()
        self._backwards += 1

    def step(self) -> None:
        """Call after every backward; the last call of a step's accumulation updates the active slots."""
        if self._backwards < self.place.accumulation:
            return
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._backwards = 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all workers."""
        return values

    def save(self, folder: Path) -> None:
        """Write the engine's own part of a run's state (not bank and optimizer). Every rank must call it."""

    def load(self, folder: Path) -> None:
        """Load what `save` wrote. Every rank must call it."""

    def close(self) -> None:
        """Free the engine's own resources. The engine cannot be used afterwards."""


class TeamEngine(Engine):
    """The engine of each of several workers with the same base and slots; torch.distributed must be initialised."""

    def __init__(self, module: DualStep, optimizer: SlotAdamW) -> None:
        super().__init__(module, optimizer)
        self.place = replace(self.place, rank=dist.get_rank(), workers=dist.get_world_size())

    def step(self) -> None:
        if self._backwards == self.place.accumulation:
            self._reduce()
        super().step()

    def mean(self, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values / self.place.workers

    def _reduce(self) -> None:
        """Average the gradients of the active slots over the workers; every rank knows which slots are active.

        Other gradients are not sent: a pack has a spatial slot for each clip, and a step uses only a few clips.
        """
        groups = [group for group in self.optimizer.param_groups if group["active"]]
        parameters = [parameter for group in groups for parameter in group["params"]]
        if not parameters:
            return
        for parameter in parameters:
            if parameter.grad is None:  # another rank's samples used this slot
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([parameter.grad.flatten() for parameter in parameters])
        dist.all_reduce(flat)
        flat /= self.place.workers
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad.copy_(part.view_as(parameter))


def group_settings(path: str, config: TrainConfig, clips: int) -> dict[str, Any]:
    """AdamW's settings for a slot of this path. The schedule scales `peak_lr`."""
    rate = config.learning_rates()[path]
    return {
        "lr": rate,
        "peak_lr": rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "eps": config.adam_epsilon,
        "weight_decay": config.weight_decay_for(clips),
        "max_norm": config.max_gradient_norm,
    }


def slot_groups(bank: AdapterBank, config: TrainConfig, clips: int) -> list[dict[str, Any]]:
    """One param group per slot and part of the denoiser: spatial slots first, then temporal."""
    return [
        {
            "params": bank.slot_parameters(path, slot, part),
            "path": path,
            "slot": slot,
            "part": part,
            **group_settings(path, config, clips),
        }
        for path in ("spatial", "temporal")
        for slot in range(1, bank.slots[path] + 1)
        for part in bank.parts
    ]


def make_optimizer(bank: AdapterBank, config: TrainConfig, clips: int) -> SlotAdamW:
    """AdamW with a group for every slot of a trainable bank."""
    return SlotAdamW(
        slot_groups(bank, config, clips),
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
    )


def set_active(optimizer: SlotAdamW, factors: Mapping[tuple[str, int, str], float]) -> None:
    """Mark the slots that this step trains; the same on every rank.

    Args:
        factors: (path, slot, part) of what is trained, and the factor of its peak learning rate.
    """
    for group in optimizer.param_groups:
        factor = factors.get((group["path"], group["slot"], group["part"]))
        group["active"] = factor is not None
        if factor is not None:
            group["lr"] = group["peak_lr"] * factor
