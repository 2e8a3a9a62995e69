"""The adapter bank: preallocated LoRA slots behind every target layer; a batch may mix any of them.

A slot holds one adapter of one path: A[slot] [rank, in] and B[slot] [out, rank] for each of its layers. A
sample's output gets scale * B[slot] A[slot] x added. Which slots a sample uses is the `Routing` of the
forward (`with bank.use(routing): denoiser(...)`), so one forward serves samples with different adapters,
nothing is re-created and nothing global is switched.

The same bank trains: with `trainable=True` each slot's tensors are Parameters of their own, so that a slot
that a step did not use has no gradient and its optimizer group can rest.

At rank `full` a slot holds the change of each layer's whole weight: A is the identity [in, in], which is neither
stored nor multiplied with, and B [out, in] is the change. Training B is then fine-tuning the layer itself, and an
adapter of any rank fits such a slot (written as B A).

A bank that serves keeps every slot of a path in one row of one tensor; what the layers multiply with are views of
it. So an adapter comes in as one copy of one flat image (`pack`, then `load`), whatever the number of layers.

The layers live in submodules that are *called* (not just read) because ZeRO 3 gathers a module's parameters
when it is called. They are attached by forward hooks: the denoiser's own parameter names stay as they were.

Shapes: n samples, N = tokens of a sample (whatever the layer folded into the batch: frames or pixels),
r rank, k adapters a sample. Every target layer must keep the sample outermost, as all families here do.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.lora import AddLora
from models.routing import PATHS, Mix, Path, Routing
from models.seeds import generator

Rank = int | Literal["full"]  # full: the rank of each layer is its width, A is the identity
LayerTensors = Mapping[str, tuple[Tensor, Tensor]]  # an adapter: {layer: (A [rank, in], B [out, rank])}


def with_identity(b: Tensor) -> tuple[Tensor, Tensor]:
    """(A, B) of a layer whose whole weight changes by `b` [out, in]: A is the identity [in, in]."""
    return torch.eye(b.shape[1], dtype=b.dtype, device=b.device), b


def rank_for(adapters: Iterable[LayerTensors]) -> Rank:
    """The rank of a bank that suits these adapters: the largest of theirs; `full` where layers are changed whole."""
    downs = [a for layers in adapters for a, _ in layers.values()]
    ranks = {a.shape[0] for a in downs}
    if len(ranks) > 1 and any(rank >= width for rank, width in (a.shape for a in downs)):
        return "full"
    return max(ranks)


def fill(stored: Mapping[str, Tensor], new_a: Tensor, new_b: Tensor) -> None:
    """Write A [r, in] and B [out, r] over one slot's tensors of a layer, r at most what they hold; the rest is zero."""
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

    Trainable: each slot's tensors are Parameters. Else A [slots + 1, r, in] and B [slots + 1, out, r] are views of
    the bank's one tensor, which `bind` sets.
    """

    def __init__(self, layer: nn.Linear, slots: int, rank: Rank, trainable: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.trainable = trainable
        self.halves = ("B",) if rank == "full" else ("A", "B")
        width = layer.in_features if rank == "full" else rank
        self.shapes = {"A": (width, layer.in_features), "B": (layer.out_features, width)}
        self.numel = sum(math.prod(self.shapes[half]) for half in self.halves)  # values a slot
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
        """Let the slots be these rows [slots + 1, numel] of the bank's tensor."""
        for half, view in self.views(rows).items():
            self.register_buffer(half, view, persistent=False)

    def slot(self, number: int) -> dict[str, Tensor]:
        """{"A": [r, in], "B": [out, r]} of a slot, at rank `full` B alone; as stored (writes reach the bank).

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
        stacked = picked[0].unsqueeze(0) if len(picked) == 1 else torch.stack(picked)
        return stacked.detach() if frozen else stacked

    def forward(self, x: Tensor, y: Tensor, mix: Mix, dropout: float, seeds: tuple[int, ...]) -> Tensor:
        """y + sum over the mix of scale * B A x.

        Args:
            x: the layer's input [n * anything, ..., in], sample outermost.
            y: the layer's output, same leading shape, [..., out].
        """
        n, k = mix.slots.shape
        x_nNi = x.reshape(n, -1, x.shape[-1])
        y_nNo = y.reshape(n, -1, y.shape[-1])
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
            if scale_n11 is not None:
                b_nor = b_nor * scale_n11  # far fewer values than h has, and a slot's were just copied
            if y_nNo.dtype == h_nNr.dtype:
                # Without a gradient y is nobody's but ours, the Linear just made it; a copy of it costs a CPU as
                # much as the product does.
                add = torch.baddbmm if torch.is_grad_enabled() else Tensor.baddbmm_
                y_nNo = add(y_nNo, h_nNr, b_nor.transpose(1, 2))
            else:
                y_nNo = y_nNo + torch.bmm(h_nNr, b_nor.transpose(1, 2)).to(y_nNo.dtype)
        return y_nNo.view(y.shape)

    def _bits(self, like_nNo: Tensor, seeds: tuple[int, ...], j: int) -> Tensor:
        """What each sample's dropout mask is made of (`models.lora.kept`), int16: a function of its seed alone.

        Four elements share one 64-bit draw, 16 bits each (so `dropout` is met to 1/65536): on a CPU that takes a quarter of
        `bernoulli_`'s time, which was a seventh of a training step.
        """
        _, tokens, width = like_nNo.shape
        drawn = torch.empty(len(seeds), -(-tokens * width // 4), dtype=torch.int64, device=like_nNo.device)
        for row, seed in zip(drawn, seeds, strict=True):
            row.random_(-(2**63), None, generator=generator(seed, self.key, j, device=like_nNo.device))
        return drawn.view(torch.int16)[:, : tokens * width].reshape(like_nNo.shape)

    key: str = ""  # "<path>:<layer name>": tells this layer's dropout and initial values from the others'


class AdapterBank(nn.Module):
    """LoRA slots behind a denoiser's target layers.

    Args:
        denoiser: the network whose Linears the adapters stand behind.
        targets: for each path the module names of its Linears (a layer may stand in both).
        slots: how many adapters of each path fit (slot numbers 1..n; slot 0 is the base).
        rank: the largest rank a slot can hold; smaller ones are padded with zeros. `full`: the change of the whole
            weight, which an adapter of any rank is.
        trainable: slots as Parameters, initialised for training (A ~ N(0, 1/r), B = 0).
        seed: of the initial values; a slot's values depend on (seed, path, slot, layer) only.
        dtype: of the slots; None takes the denoiser's (trainable: float32 whatever the base is).
    """

    def __init__(
        self,
        denoiser: nn.Module,
        targets: Mapping[Path, tuple[str, ...]],
        slots: Mapping[Path, int],
        rank: Rank,
        *,
        trainable: bool = False,
        seed: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.rank, self.trainable, self.seed = rank, trainable, seed
        self.slots: dict[Path, int] = {path: slots.get(path, 0) for path in PATHS}
        self.targets: dict[Path, tuple[str, ...]] = {
            path: tuple(targets.get(path, ())) if self.slots[path] else () for path in PATHS
        }
        self.current: Routing | None = None
        self._layers: dict[tuple[Path, str], LoraSlots] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self.layers = nn.ModuleDict()
        for name in dict.fromkeys((*self.targets["spatial"], *self.targets["temporal"])):
            linear = denoiser.get_submodule(name)
            assert isinstance(linear, nn.Linear), f"{name} is a {type(linear).__name__}, not a Linear"
            kind = dtype or (torch.float32 if trainable else linear.weight.dtype)
            for path in PATHS:
                if name in self.targets[path]:
                    layer = LoraSlots(linear, self.slots[path], rank, trainable, kind)
                    layer.key = f"{path}:{name}"
                    self.layers[f"{path}:{name}".replace(".", "/")] = layer
                    self._layers[path, name] = layer
        self._widths: dict[Path, list[int]] = {
            path: [self._layers[path, name].numel for name in self.targets[path]] for path in PATHS
        }
        if not trainable:
            for path in PATHS:
                if self.targets[path]:
                    self.register_buffer(
                        f"{path}_slots", self._new_rows(denoiser, path, dtype), persistent=False
                    )
            self._bind()
        self.attach(denoiser)
        if trainable:
            for path in PATHS:
                for number in range(1, self.slots[path] + 1):
                    self.reset(path, number)

    def _new_rows(self, denoiser: nn.Module, path: Path, dtype: torch.dtype | None) -> Tensor:
        """Zeros for every slot of a path [slots + 1, slot numel]."""
        weights: list[Any] = [denoiser.get_submodule(name).weight for name in self.targets[path]]
        devices = {weight.device for weight in weights}
        assert len(devices) == 1, f"the {path} targets are on {len(devices)} devices; a bank wants one"
        kinds: list[torch.dtype] = [weight.dtype for weight in weights]
        kind = dtype or functools.reduce(torch.promote_types, kinds)
        size = (self.slots[path] + 1, sum(self._widths[path]))
        return torch.zeros(size, dtype=kind, device=devices.pop())

    def _rows(self, path: Path) -> Tensor:
        """The one tensor behind a path's slots [slots + 1, slot numel]."""
        assert not self.trainable, "a trainable bank keeps each layer's slots as Parameters"
        assert self.targets[path], f"the bank has no {path} slots"
        return self.get_buffer(f"{path}_slots")

    def _bind(self) -> None:
        for path in PATHS:
            if self.targets[path]:
                pieces = self._rows(path).split(self._widths[path], dim=1)
                for name, piece in zip(self.targets[path], pieces, strict=True):
                    self._layers[path, name].bind(piece)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        if not self.trainable:
            self._bind()  # a moved or cast bank's layers must share memory again
        return self

    def _hook(self, name: str):
        layers = [(path, self._layers[path, name]) for path in PATHS if (path, name) in self._layers]

        def add_adapters(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            routing = self.current
            if routing is None:
                return None
            for path, layer in layers:
                mix: Mix | None = getattr(routing, path)
                if mix is not None and mix.slots.shape[1]:
                    output = layer(args[0], output, mix, routing.dropout, routing.seeds)
            return output

        return add_adapters

    @contextmanager
    def use(self, routing: Routing | None) -> Iterator[None]:
        """Within this block the denoiser's forward uses these adapters; None: the bare base model."""
        before, self.current = self.current, routing
        try:
            yield
        finally:
            self.current = before

    def attach(self, denoiser: nn.Module) -> None:
        """Stand behind the denoiser's target layers: done at first, and again after a `remove`."""
        assert not self._hooks, "the bank is attached"
        for name in dict.fromkeys(name for _, name in self._layers):
            self._hooks.append(denoiser.get_submodule(name).register_forward_hook(self._hook(name)))

    def remove(self) -> None:
        """Take the bank off the denoiser, which is then exactly what it was."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _of(self, path: Path, slot: int) -> Iterator[tuple[str, LoraSlots]]:
        assert 1 <= slot <= self.slots[path], f"{path} slot {slot} of {self.slots[path]}"
        for name in self.targets[path]:
            yield name, self._layers[path, name]

    def holds(self, rank: int) -> bool:
        """Whether an adapter of that rank (the largest of its layers) fits a slot."""
        return self.rank == "full" or rank <= self.rank

    @torch.no_grad()
    def reset(self, path: Path, slot: int, *, seed: int | None = None, number: int | None = None) -> None:
        """Initial values of training: A ~ N(0, std 1/rank), B = 0 (so the adapter starts as no change).

        Args:
            seed: the bank's when not given.
            number: of the slot whose initial values these are, when not its own: an adapter that trains in slot 5
                of a bank for many starts as it would in slot 1 of its own.
        """
        for name, layer in self._of(path, slot):
            stored = layer.slot(slot)
            stored["B"].zero_()
            if self.rank == "full" or stored["A"].is_meta:
                continue
            own = generator(self.seed if seed is None else seed, path, number or slot, name)
            stored["A"].copy_(torch.randn(stored["A"].shape, generator=own) / self.rank)

    @torch.no_grad()
    def clear(self, path: Path, slot: int) -> None:
        """Make the slot all zeros."""
        for _, layer in self._of(path, slot):
            for tensor in layer.slot(slot).values():
                tensor.zero_()

    @torch.no_grad()
    def write(self, path: Path, slot: int, tensors: LayerTensors, scale: float = 1.0) -> None:
        """Overwrite a slot with {layer: (A [r, in], B [out, r])}; r at most the bank's rank, scale goes into B.

        Layers that the adapter does not have become zeros. Raises AssertionError for a layer that is no target
        or a rank that does not fit: `models.adapter` and the slot table check both before and say it kindly.
        """
        self._check(path, tensors)
        for name, layer in self._of(path, slot):
            if name not in tensors:
                for tensor in layer.slot(slot).values():
                    tensor.zero_()
                continue
            a, b = tensors[name]
            fill(layer.slot(slot), a, b * scale if scale != 1.0 else b)

    def _check(self, path: Path, tensors: LayerTensors) -> None:
        unknown = set(tensors) - set(self.targets[path])
        assert not unknown, f"no {path} target: {sorted(unknown)[:3]}"
        for a, _ in tensors.values():
            assert self.holds(a.shape[0]), f"rank {a.shape[0]} does not fit the bank's {self.rank}"

    def slot_bytes(self, path: Path) -> int:
        """Bytes of one slot of a path, which are those of a packed image."""
        return self._rows(path)[0].nbytes

    @torch.no_grad()
    def pack(self, path: Path, tensors: LayerTensors, scale: float = 1.0) -> Tensor:
        """An adapter as a slot will hold it: one flat tensor [slot numel] in host memory, for `load`.

        Padded to the bank's rank, scale in B, in the bank's dtype; pinned memory where the bank is on a GPU.
        Raises AssertionError as `write` does.
        """
        self._check(path, tensors)
        rows = self._rows(path)
        image = torch.zeros(rows.shape[1], dtype=rows.dtype, pin_memory=rows.is_cuda)
        for name, piece in zip(self.targets[path], image.split(self._widths[path]), strict=True):
            if name in tensors:
                a, b = tensors[name]
                views = self._layers[path, name].views(piece.unsqueeze(0))
                fill({half: view[0] for half, view in views.items()}, a, b * scale if scale != 1.0 else b)
        return image

    @torch.no_grad()
    def load(self, path: Path, slot: int, image: Tensor) -> None:
        """Overwrite a slot with a packed image: one copy, which the host does not wait for on a GPU."""
        assert 1 <= slot <= self.slots[path], f"{path} slot {slot} of {self.slots[path]}"
        self._rows(path)[slot].copy_(image, non_blocking=True)

    def extract(self, path: Path, slot: int) -> dict[str, tuple[Tensor, Tensor]]:
        """A copy of a slot on the CPU: {layer: (A [rank, in], B [out, rank])}; at rank `full` A is the identity."""
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name, layer in self._of(path, slot):
            copied = {half: t.detach().to("cpu", copy=True) for half, t in layer.slot(slot).items()}
            found[name] = (copied["A"], copied["B"]) if "A" in copied else with_identity(copied["B"])
        return found

    def named_slot_parameters(self, path: Path, slot: int) -> Iterator[tuple[str, nn.Parameter]]:
        """("<layer>/A" or "<layer>/B", Parameter) of one slot of a trainable bank, in layer order, A before B."""
        assert self.trainable, "only a trainable bank has parameters"
        for name, layer in self._of(path, slot):
            for half, tensor in layer.slot(slot).items():
                yield f"{name}/{half}", tensor  # type: ignore[misc]

    def slot_parameters(self, path: Path, slot: int) -> list[nn.Parameter]:
        """The Parameters of one slot of a trainable bank, in layer order: A, B, A, B, ...; at rank `full` B, B, ..."""
        return [parameter for _, parameter in self.named_slot_parameters(path, slot)]
