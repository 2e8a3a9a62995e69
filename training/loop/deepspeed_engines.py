"""Engines of several workers that DeepSpeed spreads the model over.

`DeepSpeedEngine` is that of a run on Ray Train, at ZeRO 0 to 3: at 1 to 3 adapters and their optimizer are in pieces on all
ranks, so a pack's members must be there before it is made, and stay. `ShardedBaseEngine` is that of a lane: DeepSpeed spreads
the frozen base alone, which is what does not fit, and every adapter is whole on each worker, so members can come and go.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.loop.engine import TeamEngine
from training.loop.optim import SlotAdamW
from training.loop.step import Batch, DualStep

SHARDS = "zero"  # folder of a checkpoint: what DeepSpeed writes at ZeRO 1-3


class _TouchAll(torch.autograd.Function):
    """Zero, with a zero gradient for every parameter.

    ZeRO 1-3 reduce a gradient when autograd has finished it and expect all ranks to finish the same ones in the same
    order. Ranks that look at different clips use different slots. This node is made first in the forward, so
    autograd runs it last in the backward: every parameter then gets its last contribution here, in one order.
    """

    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> Tensor:  # type: ignore[override]
        ctx.like = [(p.shape, p.dtype, p.device) for p in parameters]
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, _grad: Tensor) -> Any:  # type: ignore[override]
        return tuple(torch.zeros(shape, dtype=dtype, device=device) for shape, dtype, device in ctx.like)


class _Reduced(nn.Module):
    """A `DualStep` whose every slot takes part in every backward: what ZeRO 1-3 need."""

    def __init__(self, step: DualStep) -> None:
        super().__init__()
        self.step = step

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        zero = _TouchAll.apply(*(p for p in self.step.bank.parameters()))
        spatial_B, temporal_B = self.step(batch)
        return spatial_B, temporal_B + zero


class DeepSpeedEngine(TeamEngine):
    """DeepSpeed on this worker; torch.distributed must be initialised (Ray Train does that).

    The base is frozen, in fp32 or bf16; the LoRAs and their optimizer are fp32, so DeepSpeed's own mixed precision
    stays off at every stage.
    """

    def __init__(self, module: DualStep, optimizer: SlotAdamW) -> None:
        super().__init__(module, optimizer)
        deepspeed, config = import_deepspeed(), module.config
        zero: dict[str, Any] = {"stage": config.zero}
        settings = {
            "train_micro_batch_size_per_gpu": config.batch_size,
            "gradient_accumulation_steps": config.gradient_accumulation,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "gradient_clipping": 0.0,  # the optimizer clips, each slot for itself
            "steps_per_print": 2**31,
        }
        if config.zero:
            optimizer.partitioned = True
        if config.zero == 3:
            # The LoRAs are small and used at two places of a step: only the base is worth sharding.
            largest = max(p.numel() for p in module.bank.parameters())
            zero["stage3_param_persistence_threshold"] = max(100_000, largest)
            spread(deepspeed, module, settings)
        self.engine, *_ = deepspeed.initialize(
            model=_Reduced(module) if config.zero else module,
            optimizer=optimizer,
            dist_init_required=False,
            config=settings,
        )
        if config.zero == 3:
            whole = self.engine.optimizer.persistent_parameters
            whole[0].all_gather(whole)

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.engine(batch)

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss)

    def step(self) -> None:
        self.engine.step()

    def save(self, folder: Path) -> None:
        if self.module.config.zero:
            self.engine.save_checkpoint(str(folder / SHARDS), tag="state", exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        if self.module.config.zero:
            self.engine.load_checkpoint(str(folder / SHARDS), tag="state", load_module_strict=False)

    def close(self) -> None:
        self.engine.destroy()


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


def spread(deepspeed: Any, module: DualStep, settings: Mapping[str, Any]) -> None:
    """Leave of the base, wherever it lies, this worker's share on its device; the bank comes there whole.

    Parameter by parameter, so the base need not fit the device: `deepspeed.initialize` would move all of it there first.

    Args:
        settings: those that `deepspeed.initialize` is given after this; ZeRO stage 3.
    """
    deepspeed.init_distributed(dist_init_required=False)
    kind = next(module.denoiser.parameters()).dtype
    deepspeed.zero.Init(module=module.denoiser, dtype=kind, config_dict_or_path=dict(settings))
    device = next(module.denoiser.parameters()).device
    for buffer in module.denoiser.buffers():
        buffer.data = buffer.data.to(device)
    module.bank.to(device)


def import_deepspeed() -> Any:
    """DeepSpeed, told which accelerator to use before it looks, quiet, and without its shared-memory collectives.

    Those are compiled at first use, for a minute, and a rank whose peer was killed spins in them for ever, where
    gloo's connection breaks and the run goes on from its checkpoint.
    """
    import logging

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed
    from deepspeed.ops import __compatible_ops__
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
