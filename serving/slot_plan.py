"""How many slots of which rank: as configured, or as many as a memory budget holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from infra.errors import UserError
from models.foundation import Foundation
from models.routing import Path

RANKS = (128, 64, 32, 16, 8, 4)  # that a budget may come to, when no rank is asked for
ENOUGH = {"temporal": 8, "spatial": 4}  # slots that are worth more than a larger rank
MOST = 4096  # slots of a path


@dataclass(frozen=True)
class SlotPlan:
    """The sizes of a bank."""

    slots: dict[Path, int]
    rank: int

    def bytes(self, per_rank: Mapping[Path, int]) -> int:
        """Device memory the bank takes, the base's slot of each path included."""
        return sum((n + 1) * self.rank * per_rank[path] for path, n in self.slots.items() if n)


def bytes_per_rank(foundation: Foundation, dtype: torch.dtype | None = None) -> dict[Path, int]:
    """Bytes that one slot of a path takes for each rank it can hold."""
    size = (dtype or foundation.dtype).itemsize
    found: dict[Path, int] = {}
    for path, names in foundation.targets.items():
        layers = [foundation.denoiser.get_submodule(name) for name in names]
        found[path] = size * sum(layer.in_features + layer.out_features for layer in layers)
    return found


def plan_slots(
    per_rank: Mapping[Path, int],
    budget: int,
    *,
    rank: int | None = None,
    slots: Mapping[Path, int] | None = None,
) -> SlotPlan:
    """The bank that a budget of device memory holds.

    Neither rank nor slots given: the largest of RANKS at which ENOUGH slots fit (else the smallest), then as many
    slots as fit, in the proportion of ENOUGH. One of them given: the other follows.

    Args:
        per_rank: bytes of one slot of each path for each rank (`bytes_per_rank`); a path of 0 bytes gets no slot.
        budget: bytes.

    Raises:
        UserError: the budget does not hold one slot of each path; says what would be needed.
    """
    paths: list[Path] = [path for path, size in per_rank.items() if size]
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
    for share in range(1, MOST * max(ENOUGH.values())):  # one slot more in turn, in proportion
        wanted = {path: min(MOST, max(1, share * n // max(enough.values()))) for path, n in enough.items()}
        if SlotPlan(wanted, chosen).bytes(per_rank) > budget or wanted == dict.fromkeys(paths, MOST):
            break
        plan = SlotPlan(wanted, chosen)
    return plan


def too_small(budget: int, plan: SlotPlan, per_rank: Mapping[Path, int]) -> UserError:
    """Says what the least plan would take."""
    what = " and ".join(f"{n} {path}" for path, n in plan.slots.items() if n)
    return UserError(
        f"slot memory of {budget} bytes does not hold {what} slots of rank {plan.rank} beside the base's; give at "
        f"least {plan.bytes(per_rank)}, or a smaller rank.",
        code="slot_memory_too_small",
    )
