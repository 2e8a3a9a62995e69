"""Which GPU trains and serves a model, by arithmetic on its footprint. Imports no torch.

A GPU is taken to fit what needs at most `USABLE` of its memory: the rest is for the CUDA context, workspaces of kernels and
fragmentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.scale.footprint import Footprint

GPUS = (24, 48, 80, 141)  # GB
USABLE = 0.9
ADAM = 8  # bytes of AdamW's state per trained value; the values themselves have 4
GATHERED = 2  # blocks that ZeRO 3 holds whole at once: the one that computes, and the next


@dataclass(frozen=True)
class TrainingPlan:
    """Settings of a training, by their names in `TrainConfig`."""

    checkpointing: bool = False
    int8: bool = False
    zero: int = 0
    workers: int = 1

    def __str__(self) -> str:
        parts = ["int8"] if self.int8 else []
        parts += ["gradient checkpointing"] if self.checkpointing else []
        parts += [f"zero {self.zero} on {self.workers} GPUs"] if self.zero else []
        return ", ".join(parts) or "as it is"

    def need(self, found: Footprint) -> int:
        """Bytes on each GPU. Latents are prepared before, so the encoders are not there."""
        base = found.denoiser_int8 + found.largest_linear if self.int8 else found.denoiser
        if self.zero == 3:
            base = base // self.workers + GATHERED * found.largest_block
        optimizer = ADAM * found.adapters // (self.workers if self.zero else 1)
        return base + 4 * found.adapters + optimizer + found.steps[self.checkpointing]


@dataclass(frozen=True)
class ServingPlan:
    """Settings of a server, by their names in `ServeConfig`."""

    int8: bool = False
    offload: bool = False  # the text encoder and the VAE wait in host memory

    def __str__(self) -> str:
        parts = ["int8"] if self.int8 else []
        parts += ["offload encoders"] if self.offload else []
        return ", ".join(parts) or "as it is"

    def need(self, found: Footprint) -> int:
        """Bytes on the GPU while one request of this size is made."""
        base = found.denoiser_int8 + found.largest_linear if self.int8 else found.denoiser
        base += found.slots
        if self.offload:
            return base + max(found.denoising, found.text, found.vae + found.decoding)
        return base + found.text + found.vae + max(found.denoising, found.decoding)


TRAINING = (
    TrainingPlan(),
    TrainingPlan(checkpointing=True),
    TrainingPlan(checkpointing=True, int8=True),
    *(TrainingPlan(checkpointing=True, zero=3, workers=workers) for workers in (2, 4, 8)),
)
SERVING = (
    ServingPlan(),
    ServingPlan(offload=True),
    ServingPlan(int8=True),
    ServingPlan(int8=True, offload=True),
)


def first_that_fits(
    plans: tuple[TrainingPlan, ...] | tuple[ServingPlan, ...], found: Footprint, gpu: int
) -> str | None:
    """The first of these plans that a GPU of that many GB has room for, in words."""
    return next((str(plan) for plan in plans if plan.need(found) <= USABLE * gpu * 1e9), None)
