"""Asking a denoiser for some samples of a batch at a time, with their own rows of the routing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from models.lora.bank import AdapterBank


def answer_by_kind(
    kind_B: Tensor, denoiser: nn.Module, bank: AdapterBank | None, ask: Callable[[Tensor | slice], Tensor]
) -> Tensor:
    """Every sample's answer, asking once for all samples of a kind.

    Args:
        kind_B: integers.
        bank: its current routing is divided with the samples.
        ask: the answer for some of the samples.
    """
    kinds = kind_B.unique()
    if len(kinds) == 1:
        return ask(slice(None))
    if sharded(denoiser):  # all workers gather its weights together, so all must ask equally often
        kind_B = kinds = torch.arange(len(kind_B), device=kind_B.device)
    groups = [(kind_B == kind).nonzero()[:, 0] for kind in kinds]
    answers = []
    for rows in groups:
        with routed(bank, rows):
            answers.append(ask(rows))
    return torch.cat(answers)[torch.cat(groups).argsort()]


def routed(bank: AdapterBank | None, rows: Tensor) -> AbstractContextManager[Any]:
    """A context in which the bank routes these rows of the current batch."""
    if bank is None or bank.current is None:
        return nullcontext()
    return bank.use(bank.current.pick(rows.tolist()))


def sharded(module: nn.Module) -> bool:
    """Whether DeepSpeed's ZeRO 3 holds the parameters."""
    return hasattr(next(module.parameters()), "ds_id")
