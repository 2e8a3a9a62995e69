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
        """Add each sample's change to the text; the dtype stays the same.

        A text with a mask has it as one more channel (models/foundations/flow.py): the tokens are read.
        """
        zero = torch.zeros_like(self.change[0])
        change_BnD = torch.stack([self.change[slot - 1] if slot else zero for slot in slots])
        start = text_BLD.shape[1] - self.count
        assert start >= 0, f"{self.count} appearance tokens do not fit a text of {text_BLD.shape[1]}"
        width = change_BnD.shape[2]
        tail_BnD = text_BLD[:, start:].float()
        changed_BnD = tail_BnD[..., :width] + GAIN * change_BnD
        if text_BLD.shape[2] > width:
            read_B11 = torch.tensor([bool(slot) for slot in slots], device=text_BLD.device).view(-1, 1, 1)
            mask_Bn1 = torch.where(read_B11, 1.0, tail_BnD[..., width:])
            changed_BnD = torch.cat([changed_BnD, mask_Bn1], dim=2)
        tail_BnD = changed_BnD
        return torch.cat([text_BLD[:, :start], tail_BnD.to(text_BLD.dtype)], dim=1)
