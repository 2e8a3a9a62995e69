"""The LoRA's own backward gives autograd's gradients."""

import pytest
import torch

from models.lora.term import AddLora, kept

N, TOKENS, IN, OUT, RANK = 2, 5, 6, 7, 3


def plain(x, y, a, b, scale, bits, dropout):
    """The same, as autograd sees it."""
    h = x if a is None else x @ a.transpose(1, 2)
    up = (h if scale is None else h * scale) @ b.transpose(1, 2)
    if bits is not None:
        up = up * kept(bits, dropout, up.dtype) / (1 - dropout)
    return y + up


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_value_and_gradients_are_those_of_autograd(dropout, scaled, whole):
    g = torch.Generator().manual_seed(0)

    def leaf(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_()

    x, y = leaf(N, TOKENS, IN), leaf(N, TOKENS, OUT)
    a, b = (None, leaf(N, OUT, IN)) if whole else (leaf(N, RANK, IN), leaf(N, OUT, RANK))
    scale = torch.tensor([0.5, 2.0], dtype=torch.float64).view(N, 1, 1) if scaled else None
    bits = torch.randint(-(2**15), 2**15, (N, TOKENS, OUT), generator=g).to(torch.int16) if dropout else None
    weights = torch.randn(N, TOKENS, OUT, generator=g, dtype=torch.float64)
    leaves = [tensor for tensor in (x, y, a, b) if tensor is not None]
    outputs = [f(x, y, a, b, scale, bits, dropout) for f in (AddLora.apply, plain)]
    torch.testing.assert_close(*outputs)
    ours, theirs = (torch.autograd.grad((out * weights).sum(), leaves) for out in outputs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_a_frozen_lora_keeps_nothing_of_its_input():
    saved = []
    x = torch.randn(N, TOKENS, IN, requires_grad=True)
    y, a, b = torch.randn(N, TOKENS, OUT), torch.randn(N, RANK, IN), torch.randn(N, OUT, RANK)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        out = AddLora.apply(x, y, a, b, None, None, 0.0)
    assert set(saved) == {a.shape, b.shape}
    out.sum().backward()
    torch.testing.assert_close(x.grad, (b @ a).sum(1, keepdim=True).expand_as(x))
