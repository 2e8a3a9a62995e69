"""Engines for several workers with DeepSpeed.

`DeepSpeedEngine` is the engine of a run on Ray Train, at ZeRO 0 to 3. At 1 to 3, adapters and their optimizer are
sharded over all ranks, so a pack's members must exist before the engine is created, and stay. `ShardedBaseEngine`
is the engine of a lane. DeepSpeed shards only the frozen base, which is the part that does not fit. Every adapter
is whole on each worker, so members can join and leave.
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

    ZeRO 1-3 reduce a gradient when autograd has finished it, and expect all ranks to finish the same gradients in
    the same order. Ranks that train on different clips use different slots. This node is created first in the
    forward, so autograd runs it last in the backward: every parameter gets its last contribution here, in one order.
    """

    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> Tensor:  # type: ignore[override]
        ctx.like = [(p.shape, p.dtype, p.device) for p in parameters]
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, _grad: Tensor) -> Any:  # type: ignore[override]
        return tuple(torch.zeros(shape, dtype=dtype, device=device) for shape, dtype, device in ctx.like)


class _AdaptersAlone(nn.Module):
    """The step with the bank as its only submodule: DeepSpeed would move and broadcast a quantized base, and cannot.

    The base is on the device, and every worker has read the same files.
    """

    def __init__(self, step: DualStep) -> None:
        super().__init__()
        self.bank = step.bank
        self.step = [step]  # in a list, so that it is not registered as a submodule

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.step[0](batch)


class _Reduced(nn.Module):
    """A `DualStep` in which every slot takes part in every backward, as ZeRO 1-3 require."""

    def __init__(self, step: DualStep | _AdaptersAlone) -> None:
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
            "gradient_clipping": 0.0,  # the optimizer clips each slot separately
            "steps_per_print": 2**31,
        }
        if config.zero:
            optimizer.partitioned = True
        if config.zero == 3:
            # The LoRAs are small and used twice in a step: only the base is worth sharding.
            largest = max(p.numel() for p in module.bank.parameters())
            zero["stage3_param_persistence_threshold"] = max(100_000, largest)
            spread(deepspeed, module, settings)
        seen = module if config.quantize == "none" else _AdaptersAlone(module)
        self.engine, *_ = deepspeed.initialize(
            model=_Reduced(seen) if config.zero else seen,
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
    """The step with the denoiser as its only submodule, so that DeepSpeed finds no other parameters."""

    def __init__(self, step: DualStep) -> None:
        super().__init__()
        self.denoiser = step.denoiser
        self.step = [step]  # in a list, so that it is not registered as a submodule

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.step[0](batch)


class ShardedBaseEngine(TeamEngine):
    """`TeamEngine` with a shard of the base on each worker.

    A layer's weights are gathered when the forward or the backward reaches it, and freed afterwards. After
    `close` the denoiser has no weights: load the foundation again.
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
        # Without an optimizer DeepSpeed only shards and gathers parameters, in the forward and the backward.
        self._engine, *_ = deepspeed.initialize(model=self._over, dist_init_required=False, config=settings)

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self._over(batch)

    def backward(self, loss: Tensor) -> None:
        super().backward(loss)
        # Otherwise the layer gathered last would stay in memory until the next forward.
        self._engine.optimizer.partition_all_parameters()

    def close(self) -> None:
        self._engine.destroy()
        # DeepSpeed keeps references to the wrapped module and some of its layers for ever: free their weights.
        for parameter in self._over.denoiser.parameters():
            parameter.data = parameter.data.new_empty(0)
            parameter.ds_tensor.data = parameter.ds_tensor.data.new_empty(0)
        self._over.step.clear()
        del self._over.denoiser


def spread(deepspeed: Any, module: DualStep, settings: Mapping[str, Any]) -> None:
    """Shard the base: keep only this worker's shard of it, on the device. The bank moves to the device as a whole.

    This works parameter by parameter, so the base need not fit the device. `deepspeed.initialize` would first
    move all of it there.

    Args:
        settings: the settings that `deepspeed.initialize` gets afterwards, with ZeRO stage 3.
    """
    deepspeed.init_distributed(dist_init_required=False)
    kind = next(module.denoiser.parameters()).dtype
    deepspeed.zero.Init(module=module.denoiser, dtype=kind, config_dict_or_path=dict(settings))
    device = next(module.denoiser.parameters()).device
    for buffer in module.denoiser.buffers():
        buffer.data = buffer.data.to(device)
    module.bank.to(device)


def import_deepspeed() -> Any:
    """Import DeepSpeed with the accelerator set, without log output and without its shared-memory collectives.

    These are compiled at first use, which takes a minute. A rank whose peer was killed spins in them for ever,
    whereas gloo's connection breaks and the run continues from its checkpoint.
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
