"""AdamW over the slots of an adapter bank: a step updates only the slots that it trained.

Plain AdamW would also change the other slots, by momentum and weight decay. Here each slot is a param
group with its own learning rate, weight decay and `active` flag. Inactive groups keep their parameters,
moments and step count. Gradients are clipped per group, so adapters of one step never scale each other.
Clipping is the same at every ZeRO stage: where DeepSpeed gives a rank only its partition of a group,
`partitioned` sums the norm over the ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist


class SlotAdamW(torch.optim.AdamW):
    """AdamW whose groups carry `active` (bool) and `max_norm` (0: no clipping).

    Args:
        groups: dicts with `params`, `lr`, `weight_decay`, and any keys that identify the slot.

    Attributes:
        partitioned: set by the engine under ZeRO 1-3, where each rank updates a part of every group.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, betas: tuple[float, float], eps: float) -> None:
        # foreach: one call for all tensors of a group. Same bits, less Python overhead.
        each = [{"active": False, "max_norm": 0.0, **group} for group in groups]
        super().__init__(each, betas=betas, eps=eps, foreach=True)
        self.partitioned = False

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the active groups once. Under ZeRO, DeepSpeed calls this once for each group."""
        every = self.param_groups
        try:
            self.param_groups = [group for group in every if group["active"] and group["params"]]
            for group in self.param_groups:
                if group["max_norm"]:
                    self._clip(group)
            super().step(closure)
        finally:
            self.param_groups = every

    def _clip(self, group: dict[str, Any]) -> None:
        grads = [p.grad for p in group["params"] if p.grad is not None]
        if not grads:
            return
        squared = torch.stack([grad.double().square().sum() for grad in grads]).sum()
        if self.partitioned and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(squared)
        scale = group["max_norm"] / (squared.sqrt() + 1e-6)
        if scale < 1:
            for grad in grads:
                grad.mul_(scale.to(grad.dtype))


def learning_rate_factor(step: int, *, schedule: str, warmup_steps: int, steps: int) -> float:
    """Factor of the peak learning rate at `step` (0-based).

    Rises linearly over `warmup_steps`, then stays at 1 (constant) or falls to 0 at `steps` (linear, cosine).
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return 1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
