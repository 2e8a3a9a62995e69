"""What the loop drives: forward, backward and update of one step, on one process or on many.

`PlainEngine` is torch alone in one process. `DeepSpeedEngine` is the same on every worker of a Ray Train run, at
ZeRO 0 to 3. At ZeRO 0 on one worker the two are bit for bit the same (tested), so what is developed and packed with
the first holds for the second.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.bank import AdapterBank
from training.config import TrainConfig
from training.draws import Place
from training.optim import SlotAdamW
from training.step import Batch, DualStep

SHARDS = "zero"  # folder of a checkpoint: what DeepSpeed writes at ZeRO 1-3


class Engine(Protocol):
    """Forward, backward and update of one training step."""

    module: DualStep
    optimizer: SlotAdamW
    place: Place

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(L_s, L_t) of each sample."""

    def backward(self, loss: Tensor) -> None:
        """Add this forward's share of the step's gradient."""

    def step(self) -> None:
        """Called after every backward; the last of a step's accumulation updates the active slots."""

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all workers."""

    def save(self, folder: Path) -> None:
        """Write what it holds of a run's state beside the bank and the optimizer; every rank calls it."""

    def load(self, folder: Path) -> None:
        """What `save` wrote, on every rank."""

    def close(self) -> None:
        """Give back what it holds beside the module; no further use."""


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


class PlainEngine:
    """torch alone, one process."""

    def __init__(self, module: DualStep, optimizer: SlotAdamW) -> None:
        config = module.config
        self.module, self.optimizer = module, optimizer
        self.place = Place(accumulation=config.gradient_accumulation, batch_size=config.batch_size)
        self._backwards = 0

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.module(batch)

    def backward(self, loss: Tensor) -> None:
        (loss / self.place.accumulation).backward()
        self._backwards += 1

    def step(self) -> None:
        if self._backwards < self.place.accumulation:
            return
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._backwards = 0

    def mean(self, values: Tensor) -> Tensor:
        return values

    def save(self, folder: Path) -> None:
        pass

    def load(self, folder: Path) -> None:
        pass

    def close(self) -> None:
        pass


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


class DeepSpeedEngine:
    """DeepSpeed on this worker; torch.distributed must be initialised (Ray Train does that).

    The base is frozen, in fp32 or bf16; the LoRAs and their optimizer are fp32, so DeepSpeed's own mixed precision
    stays off at every stage.
    """

    def __init__(self, module: DualStep, optimizer: SlotAdamW) -> None:
        deepspeed = import_deepspeed()
        config = module.config
        workers = dist.get_world_size()
        self.module, self.optimizer = module, optimizer
        self.place = Place(dist.get_rank(), workers, config.gradient_accumulation, config.batch_size)
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

    def mean(self, values: Tensor) -> Tensor:
        if self.place.workers == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values / self.place.workers

    def save(self, folder: Path) -> None:
        if self.module.config.zero:
            self.engine.save_checkpoint(str(folder / SHARDS), tag="state", exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        if self.module.config.zero:
            self.engine.load_checkpoint(str(folder / SHARDS), tag="state", load_module_strict=False)

    def close(self) -> None:
        self.engine.destroy()


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


def set_active(optimizer: SlotAdamW, factors: Mapping[tuple[str, int], float]) -> None:
    """Mark the slots that this step trains, on every rank alike: `factors` has them, and what scales the peak
    learning rate of each."""
    for group in optimizer.param_groups:
        factor = factors.get((group["path"], group["slot"]))
        group["active"] = factor is not None
        if factor is not None:
            group["lr"] = group["peak_lr"] * factor
