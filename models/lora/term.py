"""The LoRA term of a layer's output, as one autograd function that computes only the gradients needed.

Plain autograd would record about ten small operations per layer, about a hundred times per forward, and
keep a dropout mask of four bytes per element. This function is one operation, keeps the mask's 16
random bits, and saves nothing that a frozen LoRA does not need.

Shapes: n samples, N = tokens of a sample, r rank, i and o the layer's widths.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def kept(bits: Tensor, dropout: float, dtype: torch.dtype) -> Tensor:
    """The dropout mask from uniform int16 `bits`: 1 keeps an element, 0 drops it; same shape, in `dtype`."""
    mask = torch.empty(bits.shape, dtype=dtype, device=bits.device)
    # Writes floats directly: comparing into booleans and converting takes five times as long on a CPU.
    return torch.ge(bits, round(dropout * 2**16) - 2**15, out=mask)


class AddLora(torch.autograd.Function):
    """`y + dropout(scale * B A x)`, with a separate A and B for each sample.

    Args of `apply`:
        x_nNi, y_nNo: the layer's input and output.
        a_nri: None if A is the identity.
        b_nor: its dtype is that of the computation; the sum has the dtype of `y`.
        scale_n11: None means 1.
        bits_nNo: uniform int16 bits from which `kept` makes the dropout mask; None means no dropout.
        dropout: probability p; kept values are divided by 1 - p.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x_nNi: Tensor,
        y_nNo: Tensor,
        a_nri: Tensor | None,
        b_nor: Tensor,
        scale_n11: Tensor | None,
        bits_nNo: Tensor | None,
        dropout: float,
    ) -> Tensor:
        h_nNr = x_nNi.to(b_nor.dtype)
        if a_nri is not None:
            h_nNr = torch.bmm(h_nNr, a_nri.transpose(1, 2))
        if scale_n11 is not None:
            h_nNr = h_nNr * scale_n11
        learns_a, learns_b = ctx.needs_input_grad[2], ctx.needs_input_grad[3]
        ctx.save_for_backward(
            x_nNi if learns_a else None, h_nNr if learns_b else None, a_nri, b_nor, scale_n11, bits_nNo
        )
        ctx.dropout, ctx.x_dtype = dropout, x_nNi.dtype
        if bits_nNo is None and y_nNo.dtype == h_nNr.dtype:
            return torch.baddbmm(y_nNo, h_nNr, b_nor.transpose(1, 2))
        up_nNo = torch.bmm(h_nNr, b_nor.transpose(1, 2)).to(y_nNo.dtype)
        if bits_nNo is None:
            return y_nNo + up_nNo
        mask_nNo = kept(bits_nNo, dropout, y_nNo.dtype)
        # Writes into the product's memory: it is in the CPU's cache, and no new pages are allocated.
        return torch.addcmul(y_nNo, up_nNo, mask_nNo, value=1 / (1 - dropout), out=up_nNo)

    @staticmethod
    def backward(ctx: Any, grad_nNo: Tensor) -> Any:  # type: ignore[override]
        x_nNi, h_nNr, a_nri, b_nor, scale_n11, bits_nNo = ctx.saved_tensors
        learns_x, _, learns_a, learns_b = ctx.needs_input_grad[:4]
        up_nNo = grad_nNo.to(b_nor.dtype)  # the gradient of B A x, without dropout's factor
        factor = 1.0
        if bits_nNo is not None:
            up_nNo = kept(bits_nNo, ctx.dropout, b_nor.dtype).mul_(up_nNo)  # in place: the mask is not shared
            factor = 1 / (1 - ctx.dropout)  # applied to the small products, not to every element
        grad_b = grad_a = grad_x = None
        if learns_b:
            grad_b = torch.bmm(h_nNr.transpose(1, 2), up_nNo).mul_(factor).transpose(1, 2)
        if learns_a or learns_x:
            down_nNr = torch.bmm(up_nNo, b_nor).mul_(factor)
            if scale_n11 is not None:
                down_nNr = down_nNr * scale_n11
            if learns_a:
                grad_a = torch.bmm(x_nNi.to(b_nor.dtype).transpose(1, 2), down_nNr).transpose(1, 2)
            if learns_x:
                grad_x = (down_nNr if a_nri is None else torch.bmm(down_nNr, a_nri)).to(ctx.x_dtype)
        return grad_x, grad_nNo, grad_a, grad_b, None, None, None
