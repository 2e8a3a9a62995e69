"""AdamW over the slots of an adapter bank: a slot that a step did not train does not move.

Plain AdamW would move it, by momentum and by weight decay. Here each slot is a param group with its own learning
rate, weight decay and the flag `active`; groups that are not active are left alone, parameters, moments and step
count alike. Clipping is per group too, so the adapters of one step never scale each other, and it is the same at
every ZeRO stage: where DeepSpeed hands a rank only its partition of a group, `partitioned` makes the norm that of
the whole group by summing over the ranks.
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
        groups: dicts with `params`, `lr`, `weight_decay`, and any names that tell the slot.
        partitioned: set by the engine under ZeRO 1-3, where each rank steps a part of every group.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, betas: tuple[float, float], eps: float) -> None:
        # foreach: one call for all tensors of a group; the same bits, and less Python where they are many and small.
        each = [{"active": False, "max_norm": 0.0, **group} for group in groups]
        super().__init__(each, betas=betas, eps=eps, foreach=True)
        self.partitioned = False

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of the active groups. DeepSpeed calls it once for each group under ZeRO."""
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
    """What the peak learning rate is multiplied by at `step` (0-based).

    Rises linearly over `warmup_steps`, then stays (constant) or falls to 0 at `steps` (linear, cosine).
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return 1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
