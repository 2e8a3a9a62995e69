"""Appearance tokens: learned text vectors for what a clip's caption leaves out.

A caption such as "a star" leaves the clip's colours, background and style open. Adapters absorb what
the caption does not say, and every video made with them then shows it. So training learns the
appearance first, as vectors in place of the last text embeddings (textual inversion, arXiv 2208.01618,
applied to the encoder's output). The base model then draws this appearance by itself, as for a caption
that names it, and the temporal LoRA learns little of it. The tokens are for training only: generation
uses neither them nor a spatial LoRA.

Shapes: B samples, L D text, n tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Factor from parameters to vectors. Adam moves every parameter by about the learning rate per step, and text
# vectors (norm sqrt(D)) must move about ten times as far as a LoRA's weights.
GAIN = 10.0


class AppearanceTokens(nn.Module):
    """The tokens of every spatial slot, as a change of the text's last `count` vectors; initially zero.

    Args:
        slots: the number of slots, counted from 1; slot 0 has no tokens.
        count, width: n and D.
    """

    def __init__(self, slots: int, count: int, width: int, device: torch.device) -> None:
        super().__init__()
        self.count = count
        self.change = nn.ParameterList(
            nn.Parameter(torch.zeros(count, width, device=device, dtype=torch.float32)) for _ in range(slots)
        )

    def forward(self, text_BLD: Tensor, slots: Sequence[int]) -> Tensor:
        """Add each sample's change to the text; the dtype stays the same."""
        zero = torch.zeros_like(self.change[0])
        change_BnD = torch.stack([self.change[slot - 1] if slot else zero for slot in slots])
        start = text_BLD.shape[1] - self.count
        assert start >= 0, f"{self.count} appearance tokens do not fit a text of {text_BLD.shape[1]}"
        tail_BnD = text_BLD[:, start:].float() + GAIN * change_BnD
        return torch.cat([text_BLD[:, :start], tail_BnD.to(text_BLD.dtype)], dim=1)
