"""`torch.compile` for mixed batches, without recompilation after warm-up.

The graph sees adapters as data: slot numbers and scales are inputs, slots are overwritten in place. New
shapes would cause new graphs, so shapes are rounded up: rows to a few sizes (the last row is repeated and
the extra results are dropped), adapters per row to a few widths (padded with slot 0). Every combination
is compiled at warm-up. Other forwards (another bucket, more adapters than `max_adapters`, one request
with more rows than fit, adapters with regions) run uncompiled and are counted.
"""

from __future__ import annotations

from typing import Any

import torch
import torch._dynamo
from torch import Tensor

from models.foundations.base import Bucket, Foundation
from models.lora.routing import PATHS, LoraPath, Mix, Routing
from serving.engine.budget import ForwardBudget, example, forward, routing_like

Kind = tuple[int, int]  # widths of the spatial and the temporal mix; 0: none


class CompiledForward:
    """A `Predict` for `denoise_step`.

    Args:
        buckets: video sizes to compile for.
        max_rows: maximum rows of a forward, unless the budget of `warm_up` is lower.
        max_adapters: maximum adapters per request and path that run compiled.
        backend: backend of torch.compile.
    """

    def __init__(
        self,
        foundation: Foundation,
        buckets: list[Bucket],
        *,
        max_rows: int,
        max_adapters: int = 2,
        backend: str = "inductor",
    ) -> None:
        self._foundation, self._backend = foundation, backend
        self._max_rows = max_rows
        self.sizes = {bucket: up_to(max_rows) for bucket in buckets}
        self._buckets: dict[tuple[int, ...], Bucket] = {foundation.latent_shape(b): b for b in self.sizes}
        self.kinds = self._kinds(up_to(max_adapters))
        self.graphs = 0  # compiled so far
        self.eager = 0  # forwards that ran uncompiled
        self._warm_graphs: int | None = None
        combinations = len(self.sizes) * len(up_to(max_rows)) * len(self.kinds)
        # A limit for this function only (torch's setting is per thread); torch's type stubs lack it.
        # With fullgraph, a graph break or a graph beyond the limit is an error instead of slow.
        options: dict[str, Any] = {"backend": self._compile, "recompile_limit": 4 * combinations + 8}
        self._run = torch.compile(foundation._predict, fullgraph=True, dynamic=False, **options)

    def _kinds(self, widths: list[int]) -> list[Kind]:
        """The widths that mixes are rounded up to, cheapest first: no adapter, motion only, both paths."""
        bank = self._foundation.bank
        slots = bank.slots if bank is not None else {"spatial": 0, "temporal": 0}
        kinds: list[Kind] = [(0, 0)]
        if slots["temporal"]:
            kinds.append((0, 1))
        kinds += [(width if slots["spatial"] else 0, width if slots["temporal"] else 0) for width in widths]
        return list(dict.fromkeys(kinds))

    def _compile(self, graph, inputs):
        self.graphs += 1
        return torch._dynamo.lookup_backend(self._backend)(graph, inputs)

    def warm_up(self, budget: ForwardBudget) -> None:
        """Compile every combination that fits. Call it in the thread that will run them."""
        for bucket in self.sizes:
            self.sizes[bucket] = up_to(min(self._max_rows, budget.rows(bucket)))
            for rows in self.sizes[bucket]:
                for kind in self.kinds:
                    forward(self, example(self._foundation, bucket, rows, self._routing(rows, kind)))
        self._warm_graphs = self.graphs

    def _routing(self, rows: int, kind: Kind) -> Routing | None:
        like = {width: routing_like(self._foundation, rows, width) for width in set(kind) - {0}}
        mixes = {
            path: getattr(like[width], path)
            for path, width in zip(("spatial", "temporal"), kind, strict=True)
            if width
        }
        return Routing(**mixes) if mixes else None

    @property
    def recompilations(self) -> int:
        """Number of graphs compiled after warm-up."""
        return 0 if self._warm_graphs is None else self.graphs - self._warm_graphs

    def __call__(
        self, latents_BCfhw: Tensor, t_B: Tensor, text_BLD: Tensor, routing: Routing | None
    ) -> Tensor:
        rows = latents_BCfhw.shape[0]
        bucket = self._buckets.get(tuple(latents_BCfhw.shape[1:]))
        size = next((size for size in self.sizes[bucket] if size >= rows), None) if bucket else None
        needed = (width_of(routing, "spatial"), width_of(routing, "temporal"))
        kind = next((k for k in self.kinds if k[0] >= needed[0] and k[1] >= needed[1]), None)
        # A region's weights are inputs of another shape for each layer: all combinations would double the warm-up.
        if size is None or kind is None or (routing is not None and routing.covers_parts):
            self.eager += 1
            return self._foundation.predict(latents_BCfhw, t_B, text_BLD, routing)
        mixes: dict[str, Any] = {
            path: padded(getattr(routing, path), rows, size, width, latents_BCfhw.device)
            for path, width in zip(("spatial", "temporal"), kind, strict=True)
            if width
        }
        bank = self._foundation.bank
        inputs = [repeat_last(given, size) for given in (latents_BCfhw, t_B.float(), text_BLD)]
        if bank is None:
            return self._run(*inputs)[:rows]
        with bank.use(Routing(**mixes) if mixes else None):
            return self._run(*inputs)[:rows]


def up_to(most: int) -> list[int]:
    """The powers of two below `most`, then `most`."""
    return [size for size in (2**n for n in range(most.bit_length())) if size < most] + [most]


def width_of(routing: Routing | None, path: LoraPath) -> int:
    assert path in PATHS
    mix: Mix | None = getattr(routing, path) if routing is not None else None
    return 0 if mix is None else mix.slots.shape[1]


def repeat_last(given: Tensor, size: int) -> Tensor:
    """Pad to `size` contiguous rows by repeating the last row."""
    missing = size - given.shape[0]
    return torch.cat([given, given[-1:].expand(missing, *given.shape[1:])]) if missing else given.contiguous()


def padded(mix: Mix | None, rows: int, size: int, width: int, device: torch.device) -> Mix:
    """Pad a mix to `size` rows of `width` adapters with slot 0 at scale 0."""
    slots = torch.zeros((size, width), dtype=torch.long, device=device)
    scales = torch.zeros((size, width), dtype=torch.float32, device=device)
    if mix is not None:
        slots[:rows, : mix.slots.shape[1]] = mix.slots
        scales[:rows, : mix.slots.shape[1]] = mix.scales
    return Mix(slots, scales)
