"""Gradient checkpointing that recomputes with the routing of the original forward.

Scales flipped on modules between a forward and its recomputation are a known way to train on wrong
gradients. Here the routing in force is captured when a block is first run and put back for the recomputation,
whatever has been forwarded in between (the temporal pass, say, after the spatial one).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from models.bank import AdapterBank


def checkpoint_blocks(
    blocks: Iterable[nn.Module], bank: Callable[[], AdapterBank | None]
) -> Callable[[], None]:
    """Make each block keep only its inputs and run again in the backward. `bank` answers the attached bank.

    Returns a function that makes the blocks what they were.
    """
    undo = [_wrap(block, bank) for block in blocks]

    def restore() -> None:
        for one in undo:
            one()

    return restore


def _wrap(block: nn.Module, bank: Callable[[], AdapterBank | None]) -> Callable[[], None]:
    forward = block.forward
    own = "forward" in vars(block)  # the family's, on this instance; else the class's

    @wraps(forward)
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        attached = bank()
        routing = attached.current if attached is not None else None

        def contexts():
            return nullcontext(), attached.use(routing) if attached is not None else nullcontext()

        # Dropout masks come from the routing's seeds, so no global random state has to be kept.
        return checkpoint(
            forward, *args, use_reentrant=False, preserve_rng_state=False, context_fn=contexts, **kwargs
        )

    block.forward = checkpointed  # type: ignore[method-assign]

    def restore() -> None:
        if own:
            block.forward = forward  # type: ignore[method-assign]
        else:
            del block.forward

    return restore
