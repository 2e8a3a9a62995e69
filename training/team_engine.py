"""What a lane of several workers trains its packs with: every adapter is whole on each worker, so slots can come, go and be kept.

`TeamEngine` adds to plain torch the mean of the gradients that a step uses. `ShardedBaseEngine` has DeepSpeed spread the
frozen base over the workers too (ZeRO 3), which is what does not fit; `training.engine.DeepSpeedEngine` at ZeRO 3 shards
adapters and optimizer as well, a few MB, and a slot's state is then in pieces on all ranks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.engine import PlainEngine, import_deepspeed, spread
from training.optim import SlotAdamW
from training.step import Batch, DualStep


class TeamEngine(PlainEngine):
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


class _OverBase(nn.Module):
    """The step, with the denoiser as its only part: what DeepSpeed looks for parameters in."""

    def __init__(self, step: DualStep) -> None:
        super().__init__()
        self.denoiser = step.denoiser
        self.step = [step]  # in a list: no part

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.step[0](batch)


class ShardedBaseEngine(TeamEngine):
    """`TeamEngine` with a share of the base on each worker.

    A layer's weights are gathered when the forward or the backward comes to it, and let go after. Once closed the denoiser
    has no weights: load the foundation anew.
    """

    def __init__(self, module: DualStep, optimizer: SlotAdamW) -> None:
        super().__init__(module, optimizer)
        deepspeed = import_deepspeed()
        settings = {
            "train_micro_batch_size_per_gpu": module.config.batch_size,
            "zero_optimization": {"stage": 3},
            "steps_per_print": 2**31,
        }
        spread(deepspeed, module, settings)
        self._over = _OverBase(module)
        # Without an optimizer DeepSpeed only spreads and gathers parameters, forwards and backwards alike.
        self._engine, *_ = deepspeed.initialize(model=self._over, dist_init_required=False, config=settings)

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self._over(batch)

    def backward(self, loss: Tensor) -> None:
        super().backward(loss)
        self._engine.optimizer.partition_all_parameters()  # else what was gathered last stays until the next forward

    def close(self) -> None:
        self._engine.destroy()
        # DeepSpeed remembers for ever what it wrapped, and some of its layers: no weights must hang on that.
        for parameter in self._over.denoiser.parameters():
            parameter.data = parameter.data.new_empty(0)
            parameter.ds_tensor.data = parameter.ds_tensor.data.new_empty(0)
        self._over.step.clear()
        del self._over.denoiser
