"""Gradient checkpointing that recomputes with the routing of the original forward.

If adapter scales were set on modules and changed before the recomputation, the gradients would be wrong. Here
the routing is captured when a block first runs and restored for its recomputation, whatever was forwarded in
between (for example the temporal pass after the spatial one).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from models.lora.bank import AdapterBank


def checkpoint_blocks(
    blocks: Iterable[nn.Module], bank: Callable[[], AdapterBank | None]
) -> Callable[[], None]:
    """Make each block keep only its inputs and run again in the backward.

    Args:
        bank: returns the attached bank, if any.

    Returns a function that restores the blocks.
    """
    undo = [_wrap(block, bank) for block in blocks]

    def restore() -> None:
        for one in undo:
            one()

    return restore


def _wrap(block: nn.Module, bank: Callable[[], AdapterBank | None]) -> Callable[[], None]:
    forward = block.forward
    own = "forward" in vars(block)  # whether a family replaced it on this instance

    @wraps(forward)
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        attached = bank()
        routing = attached.current if attached is not None else None

        def contexts():
            return nullcontext(), attached.use(routing) if attached is not None else nullcontext()

        # Dropout masks come from the routing's seeds, so no global random state has to be saved.
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
