"""Which frames and pixels of the video each token of a layer stands for.

A layer of the denoiser takes a sample as R sequences of T tokens. Every token stands for one cell of a grid over the video, and
`TokenLayout` says which. A cell is what the token is *made of* at its layer's resolution; convolutions and attention
before the layer have brought it something of the rest of the video as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

# How a layer cuts the grid into sequences: the pixels of a frame, the frames of a pixel, or all at once.
Sequences = Literal["of a frame", "of a pixel", "of the video"]


@dataclass(frozen=True)
class TokenLayout:
    """The tokens of one layer for one size of video.

    `frames`, `rows` and `columns` are the frames, pixel rows and pixel columns of the video behind each step of the grid.
    """

    sequences: Sequences
    frames: tuple[range, ...]
    rows: tuple[range, ...]
    columns: tuple[range, ...]

    @property
    def cells_RT3(self) -> Tensor:
        """(frame, row, column) in the grid of each token, in the order in which the layer takes one sample's tokens."""
        grid = torch.cartesian_prod(*(torch.arange(len(of)) for of in (self.frames, self.rows, self.columns)))
        cells_fhw3 = grid.view(len(self.frames), len(self.rows), len(self.columns), 3)
        if self.sequences == "of a frame":
            return cells_fhw3.flatten(1, 2)
        if self.sequences == "of a pixel":
            return cells_fhw3.flatten(1, 2).transpose(0, 1)
        return cells_fhw3.flatten(0, 2)[None]

    def region(self, sequence: int, token: int) -> tuple[range, range, range]:
        """The frames, pixel rows and pixel columns of the video that a token stands for."""
        frame, row, column = self.cells_RT3[sequence, token].tolist()
        return self.frames[frame], self.rows[row], self.columns[column]


def steps(latents: int, cell: int, pixels: int) -> tuple[range, ...]:
    """Cells of `cell` latents of `pixels` pixels each, along one side; the last one may be smaller."""
    starts: Sequence[int] = range(0, latents, cell)
    return tuple(range(start * pixels, min(start + cell, latents) * pixels) for start in starts)
