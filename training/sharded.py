"""ZeRO 3 for packs: the frozen base is spread over the workers, every adapter is whole on each.

`DeepSpeedEngine` at ZeRO 3 shards the adapters and their optimizer too, a few MB, and a slot's state is then in pieces on
all ranks. Here DeepSpeed has the base alone, which is what does not fit; slots come, go and are kept as at ZeRO 0.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.engine import PlainEngine, import_deepspeed
from training.optim import SlotAdamW
from training.step import Batch, DualStep


class _OverBase(nn.Module):
    """The step, with the denoiser as its only part: what DeepSpeed looks for parameters in."""

    def __init__(self, step: DualStep) -> None:
        super().__init__()
        self.denoiser = step.denoiser
        self._step = [step]  # in a list: no part

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self._step[0](batch)


class ShardedBaseEngine(PlainEngine):
    """On this worker of several; torch.distributed must be initialised.

    A layer's weights are gathered when the forward or the backward comes to it, and let go after. Afterwards the denoiser stays
    in pieces: load the foundation anew for anything else.
    """

    def __init__(self, module: DualStep, optimizer: SlotAdamW) -> None:
        super().__init__(module, optimizer)
        deepspeed = import_deepspeed()
        self.place = replace(self.place, rank=dist.get_rank(), workers=dist.get_world_size())
        self._over = _OverBase(module)
        # Without an optimizer DeepSpeed only spreads and gathers parameters, forwards and backwards alike.
        self._engine, *_ = deepspeed.initialize(
            model=self._over,
            dist_init_required=False,
            config={
                "train_micro_batch_size_per_gpu": module.config.batch_size,
                "zero_optimization": {"stage": 3},
                "steps_per_print": 2**31,
            },
        )

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self._over(batch)

    def backward(self, loss: Tensor) -> None:
        super().backward(loss)
        self._engine.optimizer.partition_all_parameters()  # else what was gathered last stays until the next forward

    def step(self) -> None:
        if self._backwards == self.place.accumulation:
            self._reduce()
        super().step()

    def mean(self, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values / self.place.workers

    def close(self) -> None:
        self._engine.destroy()
        del self._over.denoiser  # DeepSpeed remembers what it wrapped for ever

    def _reduce(self) -> None:
        """The mean over the workers of the gradients that this step uses; every rank knows which those are."""
        groups = [group for group in self.optimizer.param_groups if group["active"]]
        parameters = [p for group in groups for p in group["params"]]
        if not parameters:
            return
        for parameter in parameters:
            if parameter.grad is None:  # another rank's samples used this slot
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([p.grad.flatten() for p in parameters])
        dist.all_reduce(flat)
        flat /= self.place.workers
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad.copy_(part.view_as(parameter))
