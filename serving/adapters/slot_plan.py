"""Plans the number and rank of slots: as configured, or as many as a memory budget holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from infra.errors import UserError
from models.foundations.base import Foundation
from models.lora.routing import LoraPath

RANKS = (128, 64, 32, 16, 8, 4)  # candidates if no rank is configured
ENOUGH = {"temporal": 8, "spatial": 4}  # slots up to these numbers are preferred to a larger rank
MAX_SLOTS = 4096  # of a path


@dataclass(frozen=True)
class SlotPlan:
    """The size of a bank."""

    slots: dict[LoraPath, int]
    rank: int

    def bytes(self, per_rank: Mapping[LoraPath, int]) -> int:
        """Device memory of the bank, including the base slot of each path."""
        return sum((n + 1) * self.rank * per_rank[path] for path, n in self.slots.items() if n)


def bytes_per_rank(foundation: Foundation, dtype: torch.dtype | None = None) -> dict[LoraPath, int]:
    """Bytes per slot and unit of rank, by path."""
    size = (dtype or foundation.dtype).itemsize
    found: dict[LoraPath, int] = {}
    for path, names in foundation.targets.items():
        layers = [foundation.denoiser.get_submodule(name) for name in names]
        found[path] = size * sum(layer.in_features + layer.out_features for layer in layers)
    return found


def plan_slots(
    per_rank: Mapping[LoraPath, int],
    budget: int,
    *,
    rank: int | None = None,
    slots: Mapping[LoraPath, int] | None = None,
) -> SlotPlan:
    """The bank that fits in a budget of device memory.

    If neither rank nor slots are given: the largest of RANKS at which ENOUGH slots fit (else the smallest),
    then as many slots as fit, in the proportion of ENOUGH. If one is given, the other is computed.

    Args:
        per_rank: bytes per slot and unit of rank, by path (`bytes_per_rank`); a path of 0 bytes gets no slot.
        budget: bytes.

    Raises:
        UserError: the budget does not hold the given slots or one slot of each path; names the needed bytes.
    """
    paths: list[LoraPath] = [path for path, size in per_rank.items() if size]
    if slots is not None:
        ranks = (rank,) if rank is not None else tuple(range(RANKS[0], 0, -1))
        plan = next((p for r in ranks if (p := SlotPlan(dict(slots), r)).bytes(per_rank) <= budget), None)
        if plan is None:
            raise too_small(budget, SlotPlan(dict(slots), ranks[-1]), per_rank)
        return plan
    ranks = (rank,) if rank is not None else RANKS
    enough = {path: ENOUGH[path] for path in paths}
    chosen = next((r for r in ranks if SlotPlan(enough, r).bytes(per_rank) <= budget), ranks[-1])
    one = SlotPlan(dict.fromkeys(paths, 1), chosen)
    if one.bytes(per_rank) > budget:
        raise too_small(budget, one, per_rank)
    plan = one
    for share in range(1, MAX_SLOTS * max(ENOUGH.values())):  # add slots in proportion
        wanted = {
            path: min(MAX_SLOTS, max(1, share * n // max(enough.values()))) for path, n in enough.items()
        }
        if SlotPlan(wanted, chosen).bytes(per_rank) > budget or wanted == dict.fromkeys(paths, MAX_SLOTS):
            break
        plan = SlotPlan(wanted, chosen)
    return plan


def too_small(budget: int, plan: SlotPlan, per_rank: Mapping[LoraPath, int]) -> UserError:
    """The error for a small budget, with the bytes of the smallest plan."""
    what = " and ".join(f"{n} {path}" for path, n in plan.slots.items() if n)
    return UserError(
        f"slot memory of {budget} bytes does not hold {what} slots of rank {plan.rank} and the base slots; give at "
        f"least {plan.bytes(per_rank)} bytes, or a smaller rank.",
        code="slot_memory_too_small",
    )
