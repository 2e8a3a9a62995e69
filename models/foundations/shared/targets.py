"""Which Linears of a denoiser adapters change, found by their names."""

from __future__ import annotations

import re

from torch import nn

from models.lora.routing import LoraPath


def same_on_both_paths(denoiser: nn.Module, pattern: re.Pattern[str]) -> dict[LoraPath, tuple[str, ...]]:
    """The Linears whose whole names match, for both paths: those of a model without layers that are only temporal."""
    names = linears(denoiser, pattern)
    return {"spatial": names, "temporal": names}


def linears(denoiser: nn.Module, pattern: re.Pattern[str]) -> tuple[str, ...]:
    """The Linears whose whole names match."""
    return tuple(
        name
        for name, module in denoiser.named_modules()
        if isinstance(module, nn.Linear) and pattern.fullmatch(name)
    )
