"""What a pack drives: forward, backward and update of one step, on one process or on many.

`Engine` is torch alone in one process. `TeamEngine` adds the mean of the gradients over the workers of a lane. Those of
training/loop/deepspeed_engines.py spread more than the samples. At ZeRO 0 on one worker all are bit for bit the same (tested).
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
    """Forward, backward and update of one training step: torch alone, one process. Its subclasses are on several workers."""

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
        """Called after every backward; the last of a step's accumulation updates the active slots."""
        if self._backwards < self.place.accumulation:
            return
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._backwards = 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all workers."""
        return values

    def save(self, folder: Path) -> None:
        """Write what it holds of a run's state beside the bank and the optimizer; every rank calls it."""

    def load(self, folder: Path) -> None:
        """What `save` wrote, on every rank."""

    def close(self) -> None:
        """Give back what it holds beside the module; no further use."""


class TeamEngine(Engine):
    """On each of several workers with one base and the same slots; torch.distributed must be initialised."""

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
        """The mean over the workers of the gradients that this step uses; every rank knows which those are.

        The others are not sent: a pack's spatial slots are as many as its clips, and a step sees a few of those.
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
    """What AdamW does to a slot of this path. `peak_lr` is what the schedule scales."""
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
    """One param group a slot: spatial slots first, then temporal."""
    return [
        {
            "params": bank.slot_parameters(path, slot),
            "path": path,
            "slot": slot,
            **group_settings(path, config, clips),
        }
        for path in ("spatial", "temporal")
        for slot in range(1, bank.slots[path] + 1)
    ]


def make_optimizer(bank: AdapterBank, config: TrainConfig, clips: int) -> SlotAdamW:
    """AdamW with a group for every slot of a trainable bank."""
    return SlotAdamW(
        slot_groups(bank, config, clips),
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
    )


def set_active(optimizer: SlotAdamW, factors: Mapping[tuple[str, int], float]) -> None:
    """Mark the slots that this step trains, on every rank alike: `factors` has them, and what scales the peak
    learning rate of each."""
    for group in optimizer.param_groups:
        factor = factors.get((group["path"], group["slot"]))
        group["active"] = factor is not None
        if factor is not None:
            group["lr"] = group["peak_lr"] * factor
