"""Which adapters each sample of a batch uses: an argument of the forward, never a state of the model.

Shapes: n samples in the batch, at most k adapters per sample and path, N tokens of a sample in a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from models.generation import LoraPath as LoraPath

PATHS: tuple[LoraPath, LoraPath] = ("spatial", "temporal")


@dataclass(frozen=True)
class Mix:
    """The adapters of one path for every sample: output += sum_j scales[i, j] * LoRA(slots[i, j]).

    Slot 0 is all zeros; it pads samples that use fewer adapters than others.
    `frozen` adapters get no gradient (the spatial LoRA in the temporal pass).
    """

    slots: Tensor  # [n, k] long
    scales: Tensor  # [n, k] float
    frozen: bool = False
    unscaled: bool = False  # every scale is 1: no need to multiply
    # How much of each token's cell each adapter covers (models/regions/layers.py), [n, k, N] by `LoraSlots.key`; layers
    # with the same tokens share a tensor. None: every adapter of the batch acts on the whole frame.
    coverage: Mapping[str, Tensor] | None = field(default=None, repr=False)
    # The slots as Python numbers: a trainable bank keeps each slot as a Parameter and selects it by number.
    numbers: tuple[tuple[int, ...], ...] = field(default=(), repr=False)

    @classmethod
    def of(
        cls,
        slots: Sequence[Sequence[int]],
        scales: Sequence[Sequence[float]] | None = None,
        *,
        device: torch.device | str = "cpu",
        frozen: bool = False,
        coverage: Mapping[str, Tensor] | None = None,
    ) -> Mix:
        """From one row of slot numbers (and scales, default 1) per sample; rows may differ in length."""
        width = max((len(row) for row in slots), default=0)
        rows = [list(row) + [0] * (width - len(row)) for row in slots]
        unscaled = scales is None
        if scales is None:
            scales = [[1.0] * len(row) for row in slots]
        weights = [list(row) + [0.0] * (width - len(row)) for row in scales]
        return cls(
            slots=torch.tensor(rows, dtype=torch.long, device=device).view(len(rows), width),
            scales=torch.tensor(weights, dtype=torch.float32, device=device).view(len(rows), width),
            frozen=frozen,
            unscaled=unscaled,
            coverage=coverage,
            numbers=tuple(tuple(row) for row in rows),
        )

    def pick(self, rows: Sequence[int]) -> Mix:
        """The mix of some of the samples."""
        index = torch.tensor(rows, dtype=torch.long, device=self.slots.device)
        picked: dict[int, Tensor] = {}  # layers share tensors, which stay shared
        coverage = None
        if self.coverage is not None:
            for of in self.coverage.values():
                if id(of) not in picked:
                    picked[id(of)] = of[index]
            coverage = {key: picked[id(of)] for key, of in self.coverage.items()}
        return replace(
            self,
            slots=self.slots[index],
            scales=self.scales[index],
            coverage=coverage,
            numbers=tuple(self.numbers[row] for row in rows),
        )


@dataclass(frozen=True)
class Routing:
    """The adapters of one forward: a Mix for each path (None: that path is off for every sample).

    Dropout follows the up-projection. Each sample's mask is drawn from its entry of `seeds`, so it depends
    neither on the other samples of the batch nor on a recomputation by gradient checkpointing.
    """

    spatial: Mix | None = None
    temporal: Mix | None = None
    dropout: float = 0.0
    seeds: tuple[int, ...] = ()

    @property
    def covers_parts(self) -> bool:
        """Whether some adapter acts on a part of the frame only."""
        return any(mix is not None and mix.coverage is not None for mix in (self.spatial, self.temporal))

    def pick(self, rows: Sequence[int]) -> Routing:
        """The routing of some of the samples."""
        return replace(
            self,
            spatial=self.spatial and self.spatial.pick(rows),
            temporal=self.temporal and self.temporal.pick(rows),
            seeds=tuple(self.seeds[row] for row in rows) if self.seeds else (),
        )

    def __post_init__(self) -> None:
        sizes = {mix.slots.shape[0] for mix in (self.spatial, self.temporal) if mix is not None}
        assert len(sizes) <= 1, f"both paths must route the same batch, got sizes {sorted(sizes)}"
        if self.dropout:
            assert sizes == {len(self.seeds)}, "dropout needs one seed for each sample"
