"""The LoRA slots behind one layer: their tensors, and how they change the layer's output.

There are two ways, equal up to rounding. Beside the layer: its output plus B A x. In the layer: each
sample has its own weight W + scale * B A, and the layer is one product with it. The second costs about
as much as the bare layer, because the sum covers a few thousand values while the product covers all
tokens. It is used only in float32: merging in bfloat16 would round small updates away. It is not used for a batch
in which an adapter has a region: a weight of the sample acts on all its tokens alike.

Shapes: n samples, N = tokens of a sample (whatever the layer folded into the batch: frames or pixels),
r rank, k adapters per sample, i and o the layer's widths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.lora.routing import Mix
from models.lora.term import AddLora
from models.seeds import generator

Rank = int | Literal["full"]  # full: each layer's rank is its input width, A is the identity
LayerTensors = Mapping[str, tuple[Tensor, Tensor]]  # an adapter: {layer: (A [rank, in], B [out, rank])}


def with_identity(b: Tensor) -> tuple[Tensor, Tensor]:
    """(A, B) of a layer whose whole weight changes by `b` [out, in]: A is the identity [in, in]."""
    return torch.eye(b.shape[1], dtype=b.dtype, device=b.device), b


def fill(stored: Mapping[str, Tensor], new_a: Tensor, new_b: Tensor) -> None:
    """Write A [r, in] and B [out, r] into one slot of a layer; values beyond r become zero."""
    b = stored["B"]
    if "A" not in stored:
        whole = torch.equal(new_a, torch.eye(*new_a.shape, dtype=new_a.dtype, device=new_a.device))
        b.copy_(new_b if whole else new_b.float() @ new_a.float())
        return
    r = new_a.shape[0]
    stored["A"][:r].copy_(new_a)
    stored["A"][r:].zero_()
    b[:, :r].copy_(new_b)
    b[:, r:].zero_()


class LoraSlots(nn.Module):
    """The slots of one layer and path. Slot 0 is all zeros and cannot be written.

    Trainable: each slot's tensors are Parameters. Otherwise A [slots + 1, r, in] and B [slots + 1, out,
    r] are views of the bank's tensor, set by `bind`.
    """

    def __init__(self, layer: nn.Linear, slots: int, rank: Rank, trainable: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.trainable = trainable
        self.halves = ("B",) if rank == "full" else ("A", "B")
        width = layer.in_features if rank == "full" else rank
        self.shapes = {"A": (width, layer.in_features), "B": (layer.out_features, width)}
        self.numel = sum(math.prod(self.shapes[half]) for half in self.halves)  # values per slot
        if trainable:
            kind: Any = {"device": layer.weight.device, "dtype": dtype}
            for half in self.halves:
                own = (nn.Parameter(torch.zeros(self.shapes[half], **kind)) for _ in range(slots))
                setattr(self, half, nn.ParameterList(own))

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Rows of slots [n, numel] as {"A": [n, r, in], "B": [n, out, r]}, sharing memory."""
        sizes = [math.prod(self.shapes[half]) for half in self.halves]
        parts = zip(self.halves, rows.split(sizes, dim=1), strict=True)
        return {half: part.unflatten(1, self.shapes[half]) for half, part in parts}

    def bind(self, rows: Tensor) -> None:
        """Use these rows [slots + 1, numel] of the bank's tensor as the slots."""
        for half, view in self.views(rows).items():
            self.register_buffer(half, view, persistent=False)

    def slot(self, number: int) -> dict[str, Tensor]:
        """{"A": [r, in], "B": [out, r]} of a slot (only B at rank `full`), sharing memory with the bank.

        `number` counts from 1.
        """
        index = number - 1 if self.trainable else number
        return {half: getattr(self, half)[index] for half in self.halves}

    def _pick(self, store, numbers: tuple[int, ...], slots_n: Tensor, frozen: bool) -> Tensor:
        """The tensors of each sample's slot, stacked: [n, ...]."""
        if not self.trainable:
            return store.index_select(0, slots_n)
        zero = torch.zeros_like(store[0]) if 0 in numbers else None
        picked: list[Any] = [store[number - 1] if number else zero for number in numbers]
        if frozen:
            picked = [tensor.detach() for tensor in picked]
        return picked[0].unsqueeze(0) if len(picked) == 1 else torch.stack(picked)

    def forward(self, x: Tensor, y: Tensor, mix: Mix, dropout: float, seeds: tuple[int, ...]) -> Tensor:
        """y + sum over the mix of scale * B A x, each token's term multiplied by its coverage if the mix has one.

        Args:
            x: the layer's input [n * anything, ..., in], sample outermost.
            y: the layer's output, same leading shape, [..., out].
        """
        n, k = mix.slots.shape
        x_nNi = x.reshape(n, -1, x.shape[-1])
        y_nNo = y.reshape(n, -1, y.shape[-1])
        coverage_nkN = None if mix.coverage is None else mix.coverage[self.key]
        assert coverage_nkN is None or not (self.trainable or dropout), "regions are for serving banks"
        for j in range(k):
            numbers = tuple(row[j] for row in mix.numbers) if self.trainable else ()
            b_nor = self._pick(self.B, numbers, mix.slots[:, j], mix.frozen)
            a_nri = None
            if "A" in self.halves:
                a_nri = self._pick(self.A, numbers, mix.slots[:, j], mix.frozen)
            scale_n11 = None if mix.unscaled else mix.scales[:, j].to(b_nor.dtype).view(n, 1, 1)
            bits_nNo = self._bits(y_nNo, seeds, j) if dropout else None
            if self.trainable or dropout:
                y_nNo = AddLora.apply(x_nNi, y_nNo, a_nri, b_nor, scale_n11, bits_nNo, dropout)
                continue
            h_nNr = x_nNi.to(b_nor.dtype)  # serving: plain operations, which compile into one graph
            if a_nri is not None:
                h_nNr = torch.bmm(h_nNr, a_nri.transpose(1, 2))
            if coverage_nkN is not None:
                h_nNr = h_nNr * coverage_nkN[:, j, :, None].to(h_nNr.dtype)
            if scale_n11 is not None:  # scale B: it has far fewer values than h, and was just copied
                b_nor = b_nor * scale_n11
            if y_nNo.dtype == h_nNr.dtype:
                # Without gradients y may be changed in place: the Linear just made it and nothing else
                # uses it. A copy costs a CPU as much as the product.
                add = torch.baddbmm if torch.is_grad_enabled() else Tensor.baddbmm_
                y_nNo = add(y_nNo, h_nNr, b_nor.transpose(1, 2))
            else:
                y_nNo = y_nNo + torch.bmm(h_nNr, b_nor.transpose(1, 2)).to(y_nNo.dtype)
        return y_nNo.view(y.shape)

    def added_to(self, weight_noi: Tensor, mix: Mix) -> Tensor:
        """Each sample's weight [n, out, in] plus its slots' sum of scale * B A; not for a trainable bank."""
        store: Any = self  # torch types a module's buffers as Tensor or Module
        for j in range(mix.slots.shape[1]):
            b_nor = store.B.index_select(0, mix.slots[:, j])
            if not mix.unscaled:
                b_nor = b_nor * mix.scales[:, j].to(b_nor.dtype).view(-1, 1, 1)
            if "A" in self.halves:
                weight_noi = torch.baddbmm(weight_noi, b_nor, store.A.index_select(0, mix.slots[:, j]))
            else:
                weight_noi = weight_noi + b_nor
        return weight_noi

    def _bits(self, like_nNo: Tensor, seeds: tuple[int, ...], j: int) -> Tensor:
        """The int16 bits of each sample's dropout mask (`models.lora.term.kept`), a function of its seed alone.

        Four elements share one 64-bit draw, 16 bits each, so `dropout` is exact to 1/65536. On a CPU
        this takes a quarter of the time of `bernoulli_`, which was a seventh of a training step.
        """
        _, tokens, width = like_nNo.shape
        device, draws = like_nNo.device, -(-tokens * width // 4)
        drawn = torch.empty(len(seeds), draws, dtype=torch.int64, device=device)
        for row, seed in zip(drawn.unbind() if len(seeds) > 1 else (drawn,), seeds, strict=True):
            row.random_(-(2**63), None, generator=generator(seed, self.key, j, device=device))
        bits = drawn.view(torch.int16)
        return (bits if 4 * draws == tokens * width else bits[:, : tokens * width]).reshape(like_nNo.shape)

    key: str = ""  # "<path>:<layer name>": separates this layer's dropout and initial values from the others'


def pays(tokens: int, out: int, width: int) -> bool:
    """Whether merging into each sample's weight costs less than B A beside the layer.

    Merging takes r * out * in products, B A takes r * tokens * (out + in).
    """
    return out * width <= tokens * (out + width)


def in_the_layer(linear: nn.Linear, x: Tensor, routed: Sequence[tuple[LoraSlots, Mix]]) -> Tensor | None:
    """The layer's output with the slots merged into each sample's weight; None if B A must be beside it, or is better.

    Args:
        x: the layer's input [n * anything, ..., in], sample outermost.
        routed: the active slots with their mixes of n rows each; not from a trainable bank.
    """
    if any(mix.coverage is not None for _, mix in routed):
        return None
    out, width = linear.weight.shape
    n = routed[0][1].slots.shape[0]
    kinds = {x.dtype, linear.weight.dtype, *(slots.B.dtype for slots, _ in routed)}
    tokens = x.numel() // (n * width)
    plain = (
        type(linear) is nn.Linear and type(linear.weight) is nn.Parameter
    )  # a quantized weight cannot be added to
    if kinds != {torch.float32} or not plain or not pays(tokens, out, width):
        return None
    weight_noi = linear.weight.expand(n, out, width)
    for slots, mix in routed:
        weight_noi = slots.added_to(weight_noi, mix)
    x_nNi, weight_nio = x.reshape(n, -1, width), weight_noi.transpose(1, 2)
    if linear.bias is None:
        y_nNo = torch.bmm(x_nNi, weight_nio)
    else:
        y_nNo = torch.baddbmm(linear.bias.expand(n, 1, out), x_nNi, weight_nio)
    return y_nNo.view(*x.shape[:-1], out)
