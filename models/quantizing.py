"""A base whose weights are in int8: half the memory of bf16, a quarter of fp32.

torchao replaces each weight by one that has a byte per value and a scale per output, and unpacks it when the layer runs.
Only the Linears of the denoiser's blocks are changed. Adapters are beside them, in their own precision, and train as
beside any frozen weight.
"""

from __future__ import annotations

import warnings
from typing import Literal, get_args

from torch import nn

from infra.errors import InvalidInput
from models.foundations.base import Foundation

Quantization = Literal["none", "int8"]


def quantize_base(foundation: Foundation, kind: Quantization) -> None:
    """Quantize the denoiser's blocks in place, before a bank is added.

    Raises InvalidInput for a kind that does not exist, or if torchao is not installed.
    """
    if kind not in get_args(Quantization):
        raise InvalidInput(f"quantize {kind!r} is not one of {', '.join(get_args(Quantization))}.")
    if kind == "none":
        return
    assert foundation.bank is None, "quantize a foundation before its bank is added"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ModuleNotFoundError:
        raise InvalidInput(
            f"quantize {kind} needs the package torchao; install it with: pip install 'motiondirector-ray[gpu]'."
        ) from None

    for linear in quantized_linears(foundation):
        quantize_(
            linear, Int8WeightOnlyConfig(), filter_fn=lambda module, _name: isinstance(module, nn.Linear)
        )
        linear.weight.requires_grad_(False)
    foundation.quantization = kind


def saved_by_int8(foundation: Foundation, itemsize: int) -> int:
    """Bytes that int8 saves of a base whose values take `itemsize` bytes: each output has a float32 scale."""
    linears = quantized_linears(foundation)
    return sum(one.weight.numel() * (itemsize - 1) - 4 * one.out_features for one in linears)


def quantized_linears(foundation: Foundation) -> list[nn.Linear]:
    """The Linears that int8 changes."""
    found = {
        id(module): module
        for block in foundation.checkpointed_blocks()
        for module in block.modules()
        if type(module) is nn.Linear
    }
    return list(found.values())
