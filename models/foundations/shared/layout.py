"""Which frames and pixels of the video each token of a layer represents.

A layer of the denoiser takes a sample as R sequences of T tokens. Each token represents one cell of a
grid over the video; `TokenLayout` says which. A cell is what the token is *made of* at its layer's
resolution. Earlier convolutions and attention also mix in information from the rest of the video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

# How a layer splits the grid into sequences: the pixels of a frame, the frames of a pixel, or everything.
Sequences = Literal["of a frame", "of a pixel", "of the video"]


@dataclass(frozen=True)
class TokenLayout:
    """The tokens of one layer for one size of video.

    `frames`, `rows` and `columns` give the frames, pixel rows and pixel columns that each grid step covers.
    With joint attention the prompt's tokens come first (`text` of them, in the one sequence "of the video"), or last
    (`text_after`); each represents the whole video.
    """

    sequences: Sequences
    frames: tuple[range, ...]
    rows: tuple[range, ...]
    columns: tuple[range, ...]
    text: int = 0
    text_after: int = 0

    @property
    def cells_RT3(self) -> Tensor:
        """Grid position (frame, row, column) of each token of the video, in the layer's order of one sample's tokens."""
        grid = torch.cartesian_prod(*(torch.arange(len(of)) for of in (self.frames, self.rows, self.columns)))
        cells_fhw3 = grid.view(len(self.frames), len(self.rows), len(self.columns), 3)
        if self.sequences == "of a frame":
            return cells_fhw3.flatten(1, 2)
        if self.sequences == "of a pixel":
            return cells_fhw3.flatten(1, 2).transpose(0, 1)
        return cells_fhw3.flatten(0, 2)[None]

    def means(self, values_FHW: Tensor) -> Tensor:
        """The mean of each token's cell, in the layer's order of one sample's tokens [R * T], the prompt's included.

        Args:
            values_FHW: a value for each frame and each of H x W equal parts of the picture: pixels, or squares
                of pixels that no cell divides, such as latents.
        """
        means = values_FHW
        for dimension, of in enumerate((self.frames, self.rows, self.columns)):
            parts = of[-1].stop // means.shape[dimension]  # pixels (or frames) per value
            spans = [means.narrow(dimension, one.start // parts, len(one) // parts) for one in of]
            means = torch.stack([span.mean(dimension) for span in spans], dimension)
        if self.sequences == "of a pixel":
            means = means.permute(1, 2, 0)
        if not self.text and not self.text_after:
            return means.flatten()
        mean = values_FHW.mean()
        return torch.cat([mean.expand(self.text), means.flatten(), mean.expand(self.text_after)])

    def patches(self, frames: int, rows: int, columns: int, text_after: int = 0) -> TokenLayout:
        """The layout whose cells are so many cells of this one; what fills no cell is left out."""

        def joined(of: tuple[range, ...], size: int) -> tuple[range, ...]:
            firsts = range(0, len(of) - size + 1, size)
            return tuple(range(of[first].start, of[first + size - 1].stop) for first in firsts)

        return TokenLayout(
            self.sequences,
            joined(self.frames, frames),
            joined(self.rows, rows),
            joined(self.columns, columns),
            text_after=text_after,
        )

    def region(self, sequence: int, token: int) -> tuple[range, range, range]:
        """The frames, pixel rows and pixel columns that a token of the video represents."""
        frame, row, column = self.cells_RT3[sequence, token].tolist()
        return self.frames[frame], self.rows[row], self.columns[column]


def steps(latents: int, cell: int, pixels: int) -> tuple[range, ...]:
    """Cells along one side, each `cell` latents of `pixels` pixels; the last one may be smaller."""
    starts: Sequence[int] = range(0, latents, cell)
    return tuple(range(start * pixels, min(start + cell, latents) * pixels) for start in starts)
