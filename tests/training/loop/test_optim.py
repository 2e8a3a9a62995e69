"""SlotAdamW: slots that a step did not train do not move; the others move as torch's AdamW moves them."""

import copy
import itertools

import pytest
import torch

from training.loop.optim import SlotAdamW, learning_rate_factor


def two_slots(max_norm=0.0):
    g = torch.Generator().manual_seed(0)
    slots = [[torch.nn.Parameter(torch.randn(3, 4, generator=g)) for _ in range(2)] for _ in range(2)]
    groups = [
        {"params": slot, "lr": 0.1, "weight_decay": 0.05, "active": True, "max_norm": max_norm}
        for slot in slots
    ]
    return slots, SlotAdamW(groups, betas=(0.9, 0.999), eps=1e-8)


def give_gradients(slots, seed):
    g = torch.Generator().manual_seed(seed)
    for slot in slots:
        for p in slot:
            p.grad = torch.randn(p.shape, generator=g)


def test_an_inactive_slot_moves_neither_by_momentum_nor_by_decay():
    slots, optimizer = two_slots()
    give_gradients(slots, 1)
    optimizer.step()
    optimizer.param_groups[1]["active"] = False
    before = copy.deepcopy([p.data for p in slots[1]])
    state = copy.deepcopy([optimizer.state[p] for p in slots[1]])
    moved = slots[0][0].detach().clone()
    for seed in range(3):
        give_gradients(slots, seed)
        optimizer.step()
    for p, old, s in zip(slots[1], before, state, strict=True):
        assert torch.equal(p, old)
        assert all(torch.equal(optimizer.state[p][k], s[k]) for k in s)
    assert not torch.equal(slots[0][0], moved)
    assert len(optimizer.param_groups) == 2


def test_active_slots_move_as_under_torchs_adamw():
    slots, optimizer = two_slots()
    twins = [[torch.nn.Parameter(p.detach().clone()) for p in slot] for slot in slots]
    torchs = torch.optim.AdamW([{"params": t} for t in twins], lr=0.1, weight_decay=0.05)
    for seed in range(4):
        give_gradients(slots, seed)
        give_gradients(twins, seed)
        optimizer.step()
        torchs.step()
    for slot, twin in zip(slots, twins, strict=True):
        for p, t in zip(slot, twin, strict=True):
            assert torch.equal(p, t)


def test_each_slot_is_clipped_for_itself():
    slots, optimizer = two_slots(max_norm=1.0)
    give_gradients(slots, 1)
    for p in slots[1]:
        p.grad.mul_(1e-3)
    small = [p.grad.clone() for p in slots[1]]
    optimizer.step()
    norm = torch.stack([p.grad.square().sum() for p in slots[0]]).sum().sqrt()
    assert norm.item() == pytest.approx(1.0, rel=1e-4)
    assert all(torch.equal(p.grad, s) for p, s in zip(slots[1], small, strict=True))


def test_schedules():
    def factors(schedule, warmup):
        return [learning_rate_factor(s, schedule=schedule, warmup_steps=warmup, steps=10) for s in range(10)]

    assert factors("constant", 0) == [1.0] * 10
    assert factors("constant", 3)[:4] == [0.25, 0.5, 0.75, 1.0]
    linear, cosine = factors("linear", 2), factors("cosine", 2)
    assert linear[2] == cosine[2] == 1.0
    assert linear[6] == pytest.approx(0.5)
    assert cosine[6] == pytest.approx(0.5)
    for falling in (linear, cosine):
        assert all(a > b for a, b in itertools.pairwise(falling[2:]))
        assert falling[-1] > 0
