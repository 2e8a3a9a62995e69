"""How many slots of which rank a budget of memory holds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import UserError
from serving.adapters.slot_plan import MAX_SLOTS, SlotPlan, bytes_per_rank, plan_slots
from serving.config import ServeConfig
from serving.ray.engine_service import describe, plan_of

PER_RANK = {"temporal": 1000, "spatial": 500}


def test_a_large_budget_has_the_largest_rank_and_many_slots():
    plan = plan_slots(PER_RANK, 10_000_000)
    assert plan.rank == 128
    assert plan.slots["temporal"] == pytest.approx(2 * plan.slots["spatial"], abs=1)
    assert 0.9 * 10_000_000 < plan.bytes(PER_RANK) <= 10_000_000


def test_a_smaller_one_gives_up_rank_before_it_gives_up_slots():
    plan = plan_slots(PER_RANK, 199_999)
    assert plan == SlotPlan({"temporal": 8, "spatial": 4}, 16)
    assert plan.bytes(PER_RANK) == 16 * (9 * 1000 + 5 * 500)


def test_a_very_small_one_has_fewer_slots_of_the_smallest_rank():
    plan = plan_slots(PER_RANK, 4 * (3 * 1000 + 2 * 500))
    assert plan == SlotPlan({"temporal": 2, "spatial": 1}, 4)


def test_what_is_asked_for_is_kept_and_the_rest_follows():
    assert plan_slots(PER_RANK, 1_000_000, rank=32).rank == 32
    plan = plan_slots(PER_RANK, 1_000_000, slots={"temporal": 3, "spatial": 0})
    assert plan == SlotPlan({"temporal": 3, "spatial": 0}, 128)
    assert plan_slots(PER_RANK, 30_000, slots={"temporal": 3, "spatial": 0}).rank == 7
    assert plan_slots({"temporal": 1000, "spatial": 0}, 100_000).slots.keys() == {"temporal"}
    assert plan_slots(PER_RANK, 10**12).slots["temporal"] == MAX_SLOTS


@pytest.mark.parametrize(("given", "least"), [({}, 12_000), ({"rank": 64}, 192_000)])
def test_a_budget_that_holds_nothing_says_what_would_be_enough(given, least):
    with pytest.raises(UserError, match=f"11999 bytes does not hold .* at least {least}"):
        plan_slots(PER_RANK, 11_999, **given)
    assert plan_slots(PER_RANK, least, **given).slots == {"temporal": 1, "spatial": 1}


@settings(deadline=None)
@given(st.integers(1, 10**5), st.integers(0, 10**5), st.integers(1, 10**9))
def test_no_plan_is_larger_than_its_budget(temporal, spatial, budget):
    per_rank = {"temporal": temporal, "spatial": spatial}
    try:
        plan = plan_slots(per_rank, budget)
    except UserError:
        return
    assert plan.bytes(per_rank) <= budget


def test_the_bank_takes_what_the_plan_says(unet3d):
    per_rank = bytes_per_rank(unet3d)
    config = ServeConfig(slot_memory=40 * sum(per_rank.values()))
    plan = plan_of(unet3d, config)
    bank = unet3d.add_bank(plan.slots, plan.rank)
    taken = sum((n + 1) * bank.slot_bytes(path) for path, n in bank.slots.items())
    assert taken == plan.bytes(per_rank) <= config.slot_memory
    info = describe(unet3d, config)
    assert (info.slots, info.rank) == (plan.slots, plan.rank)
    assert plan_of(unet3d, ServeConfig(slot_memory=10**9, rank=8)).rank == 8
    assert plan_of(unet3d, ServeConfig(slot_memory=10**9, slots=2)).slots["temporal"] == 2
