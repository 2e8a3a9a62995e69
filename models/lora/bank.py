"""The adapter bank: preallocated LoRA slots behind every target layer; one batch may mix any adapters.

A slot holds one adapter of one path: A[slot] [rank, in] and B[slot] [out, rank] for each layer. It adds
scale * B[slot] A[slot] x to a sample's output. The `Routing` of a forward says which slots each sample uses
(`with bank.use(routing): denoiser(...)`), so one forward serves samples with different adapters. No module
is re-created and no global state is switched.

The same bank trains: with `trainable=True` each slot's tensors are separate Parameters. A slot that a step
did not use then has no gradient, and its optimizer group can skip the step.

At rank `full` a slot holds the change of each layer's whole weight. A is the identity [in, in] and is neither
stored nor multiplied; B [out, in] is the change. Training B then fine-tunes the layer itself. An
adapter of any rank fits such a slot (written as B A).

A serving bank keeps all slots of a path in one tensor, one row per slot; the layers use views of it.
Loading an adapter is therefore one copy of one flat image (`pack`, then `load`), whatever the number of
layers.

The layers of a training bank live in submodules that are *called*, because ZeRO 3 gathers a module's
parameters when it is called; a forward hook attaches them to their layer. A serving bank replaces the
layer's forward, so that slots may be added to each sample's weight (`models.lora.slots.in_the_layer`).
Either way the denoiser's parameter names do not change. Every target layer must keep the sample as the
outermost dimension, as all families here do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from models.lora.routing import PATHS, LoraPath, Mix, Routing
from models.lora.slots import LayerTensors, LoraSlots, Rank, fill, in_the_layer, with_identity
from models.lora.tokens import AppearanceTokens
from models.seeds import generator


def rank_for(adapters: Iterable[LayerTensors]) -> Rank:
    """The bank rank that fits these adapters: their largest, or `full` if one changes whole layers."""
    downs = [a for layers in adapters for a, _ in layers.values()]
    ranks = {a.shape[0] for a in downs}
    if len(ranks) > 1 and any(rank >= width for rank, width in (a.shape for a in downs)):
        return "full"
    return max(ranks)


class AdapterBank(nn.Module):
    """LoRA slots behind a denoiser's target layers.

    Args:
        denoiser: the network whose Linears the adapters change.
        targets: module names of the Linears of each path (a layer may be in both).
        slots: how many adapters of each path fit (slot numbers 1..n; slot 0 is the base).
        rank: the largest rank that a slot can hold; smaller ones are padded with zeros. `full`: the
            change of the whole weight, which fits an adapter of any rank.
        trainable: make the slots Parameters, initialised for training (A ~ N(0, 1/r), B = 0).
        seed: of the initial values; a slot's values depend only on (seed, path, slot, layer).
        dtype: of the slots; None takes the denoiser's (trainable: always float32).
        tokens: learned text vectors of each spatial slot, (count, width): see `with_tokens`.
        parts: names of the denoiser's children that train separately, if it has several denoisers.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        targets: Mapping[LoraPath, tuple[str, ...]],
        slots: Mapping[LoraPath, int],
        rank: Rank,
        *,
        trainable: bool = False,
        seed: int = 0,
        dtype: torch.dtype | None = None,
        tokens: tuple[int, int] | None = None,
        parts: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.parts = tuple(parts) or ("",)
        self.rank, self.trainable, self.seed = rank, trainable, seed
        self.slots: dict[LoraPath, int] = {path: slots.get(path, 0) for path in PATHS}
        self.targets: dict[LoraPath, tuple[str, ...]] = {
            path: tuple(targets.get(path, ())) if self.slots[path] else () for path in PATHS
        }
        self.current: Routing | None = None
        self._layers: dict[tuple[LoraPath, str], LoraSlots] = {}
        self._undo: list[Callable[[], None]] = []
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
        self.tokens: AppearanceTokens | None = None
        if tokens is not None and self.slots["spatial"]:
            assert trainable, "only a trainable bank has appearance tokens"
            device = next(denoiser.parameters()).device
            self.tokens = AppearanceTokens(self.slots["spatial"], *tokens, device)
        self._widths: dict[LoraPath, list[int]] = {
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

    def _new_rows(self, denoiser: nn.Module, path: LoraPath, dtype: torch.dtype | None) -> Tensor:
        """Zeros for every slot of a path [slots + 1, slot numel]."""
        weights: list[Any] = [denoiser.get_submodule(name).weight for name in self.targets[path]]
        devices = {weight.device for weight in weights}
        assert len(devices) == 1, f"the {path} targets are on {len(devices)} devices; expected one"
        kinds: list[torch.dtype] = [weight.dtype for weight in weights]
        kind = dtype or functools.reduce(torch.promote_types, kinds)
        size = (self.slots[path] + 1, sum(self._widths[path]))
        return torch.zeros(size, dtype=kind, device=devices.pop())

    def _rows(self, path: LoraPath) -> Tensor:
        """The tensor that holds a path's slots [slots + 1, slot numel]."""
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
            self._bind()  # moving or casting breaks the sharing of memory: restore it
        return self

    def _routed(self, name: str) -> Callable[[], list[tuple[LoraSlots, Mix]]]:
        """Return a function that lists a layer's slots in the current routing, each with its mix."""
        layers = [(path, self._layers[path, name]) for path in PATHS if (path, name) in self._layers]

        def now() -> list[tuple[LoraSlots, Mix]]:
            routing = self.current
            if routing is None:
                return []
            mixes: list[tuple[LoraSlots, Mix | None]] = [
                (slots, getattr(routing, path)) for path, slots in layers
            ]
            return [(slots, mix) for slots, mix in mixes if mix is not None and mix.slots.shape[1]]

        return now

    def _beside(self, x: Tensor, y: Tensor, routed: list[tuple[LoraSlots, Mix]]) -> Tensor:
        """A layer's output plus what its slots add."""
        routing = self.current
        if routing is not None:
            for slots, mix in routed:
                y = slots(x, y, mix, routing.dropout, routing.seeds)
        return y

    def _hook(self, linear: Any, name: str) -> Callable[[], None]:
        """Add a forward hook to a layer; return a function that removes it."""
        routed = self._routed(name)
        return linear.register_forward_hook(
            lambda _module, args, output: self._beside(args[0], output, routed())
        ).remove

    def _replace(self, linear: Any, name: str) -> Callable[[], None]:
        """Replace a layer's forward so that slots can merge into its weight; return the undo function."""
        routed, bare, before = self._routed(name), linear.forward, vars(linear).get("forward")

        def forward(x: Tensor) -> Tensor:
            now = routed()
            if not now:
                return bare(x)
            dropout = self.current is not None and self.current.dropout
            y = None if before is not None or dropout else in_the_layer(linear, x, now)
            return self._beside(x, bare(x), now) if y is None else y

        def undo() -> None:
            if before is None:
                del linear.forward
            else:
                linear.forward = before

        linear.forward = forward
        return undo

    @contextmanager
    def use(self, routing: Routing | None) -> Iterator[None]:
        """Within this block the denoiser's forward uses these adapters; None: the bare base model."""
        before, self.current = self.current, routing
        try:
            yield
        finally:
            self.current = before

    def with_tokens(self, text_BLD: Tensor, spatial_slots: Sequence[int]) -> Tensor:
        """Each sample's text with the appearance tokens of its spatial slot; unchanged for slot 0."""
        if self.tokens is None or not any(spatial_slots):
            return text_BLD
        return self.tokens(text_BLD, spatial_slots)

    def attach(self, denoiser: nn.Module) -> None:
        """Attach the bank to the denoiser's target layers: at construction, and again after a `remove`."""
        assert not self._undo, "the bank is already attached"
        stand = self._hook if self.trainable else self._replace
        for name in dict.fromkeys(name for _, name in self._layers):
            linear: Any = denoiser.get_submodule(name)
            self._undo.append(stand(linear, name))

    def remove(self) -> None:
        """Detach the bank from the denoiser, which is then exactly as before."""
        for undo in self._undo:
            undo()
        self._undo.clear()

    def _of(self, path: LoraPath, slot: int) -> Iterator[tuple[str, LoraSlots]]:
        assert 1 <= slot <= self.slots[path], f"{path} slot {slot} of {self.slots[path]}"
        for name in self.targets[path]:
            yield name, self._layers[path, name]

    def holds(self, rank: int) -> bool:
        """Whether an adapter of that rank (the largest of its layers) fits a slot."""
        return self.rank == "full" or rank <= self.rank

    @torch.no_grad()
    def reset(self, path: LoraPath, slot: int, *, seed: int | None = None, number: int | None = None) -> None:
        """Set the initial values for training: A ~ N(0, std 1/rank), B = 0 (so the adapter has no effect).

        Args:
            seed: the bank's seed by default.
            number: take the initial values of this slot number instead. An adapter that trains in slot
                5 of a shared bank then starts with the values it would have in slot 1 of a bank of its
                own.
        """
        if path == "spatial" and self.tokens is not None:
            self.tokens.change[slot - 1].zero_()
        for name, layer in self._of(path, slot):
            stored = layer.slot(slot)
            stored["B"].zero_()
            if self.rank == "full" or stored["A"].is_meta:
                continue
            own = generator(self.seed if seed is None else seed, path, number or slot, name)
            stored["A"].copy_(torch.randn(stored["A"].shape, generator=own) / self.rank)

    @torch.no_grad()
    def clear(self, path: LoraPath, slot: int) -> None:
        """Make the slot all zeros."""
        if path == "spatial" and self.tokens is not None:
            self.tokens.change[slot - 1].zero_()
        for _, layer in self._of(path, slot):
            for tensor in layer.slot(slot).values():
                tensor.zero_()

    @torch.no_grad()
    def write(self, path: LoraPath, slot: int, tensors: LayerTensors, scale: float = 1.0) -> None:
        """Overwrite a slot with {layer: (A [r, in], B [out, r])}; r may be smaller, scale goes into B.

        Layers missing from the adapter become zeros. Raises AssertionError for a layer that is no
        target or a rank that does not fit: `models.adapters.file` and the slot table check both first, with
        errors for users.
        """
        self._check(path, tensors)
        for name, layer in self._of(path, slot):
            if name not in tensors:
                for tensor in layer.slot(slot).values():
                    tensor.zero_()
                continue
            a, b = tensors[name]
            fill(layer.slot(slot), a, b * scale if scale != 1.0 else b)

    def _check(self, path: LoraPath, tensors: LayerTensors) -> None:
        unknown = set(tensors) - set(self.targets[path])
        assert not unknown, f"not {path} targets: {sorted(unknown)[:3]}"
        for a, _ in tensors.values():
            assert self.holds(a.shape[0]), f"rank {a.shape[0]} does not fit the bank's {self.rank}"

    def slot_bytes(self, path: LoraPath) -> int:
        """Bytes of one slot of a path; a packed image has the same size."""
        return self._rows(path)[0].nbytes

    @torch.no_grad()
    def pack(self, path: LoraPath, tensors: LayerTensors, scale: float = 1.0) -> Tensor:
        """Convert an adapter to the form of a slot: one flat tensor [slot numel] in host memory, for `load`.

        It is padded to the bank's rank, has the scale in B and the bank's dtype, and is pinned if the
        bank is on a GPU. Raises AssertionError as `write` does.
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
    def load(self, path: LoraPath, slot: int, image: Tensor) -> None:
        """Overwrite a slot with a packed image: one copy, asynchronous on a GPU."""
        assert 1 <= slot <= self.slots[path], f"{path} slot {slot} of {self.slots[path]}"
        self._rows(path)[slot].copy_(image, non_blocking=True)

    def extract(self, path: LoraPath, slot: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Copy a slot to the CPU: {layer: (A [rank, in], B [out, rank])}; A is identity at rank `full`."""
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name, layer in self._of(path, slot):
            copied = {half: t.detach().to("cpu", copy=True) for half, t in layer.slot(slot).items()}
            found[name] = (copied["A"], copied["B"]) if "A" in copied else with_identity(copied["B"])
        return found

    def named_slot_parameters(self, path: LoraPath, slot: int) -> Iterator[tuple[str, nn.Parameter]]:
        """The named Parameters of one slot of a trainable bank, in layer order, A before B.

        Names are "<layer>/A" and "<layer>/B"; a spatial slot with appearance tokens ends with "tokens".
        """
        assert self.trainable, "only a trainable bank has parameters"
        for name, layer in self._of(path, slot):
            for half, tensor in layer.slot(slot).items():
                yield f"{name}/{half}", tensor  # type: ignore[misc]
        if path == "spatial" and self.tokens is not None:
            yield "tokens", self.tokens.change[slot - 1]

    def slot_parameters(self, path: LoraPath, slot: int, part: str = "") -> list[nn.Parameter]:
        """The Parameters of one slot of a trainable bank, in layer order: A, B, A, B, ...; at rank `full` B, B, ...

        Args:
            part: those of one of the bank's parts alone. Appearance tokens belong to the first.
        """
        named = self.named_slot_parameters(path, slot)
        if not part:
            return [parameter for _, parameter in named]
        first = part == self.parts[0]
        return [one for name, one in named if name.startswith(f"{part}.") or (first and name == "tokens")]
