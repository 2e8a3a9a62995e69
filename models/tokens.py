"""Appearance tokens: learned vectors in the text that say what a clip's caption leaves out.

A caption such as "a star" leaves the clip's colours, its background and its style open. What training is not told, the
adapters take in, and every video made with them shows it. So the looks are learned first, as vectors in place of the last
text embeddings (textual inversion, arXiv 2208.01618, in the encoder's output): the base model then draws these looks by
itself, as it does for any caption that names them, and little of them is left for the temporal LoRA. They are of training
alone: generation has neither them nor a spatial LoRA.

Shapes: B samples, L D text, n tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# The vectors are this times their parameter. Adam steps every parameter about as far as the learning rate, and text vectors
# (of norm sqrt(D)) have to go some ten times farther than a LoRA's weights.
GAIN = 10.0


class AppearanceTokens(nn.Module):
    """The tokens of every spatial slot, as a change of the text's last `count` vectors; zeros at first.

    Args:
        slots: 1 to this number; slot 0 has none.
        count, width: n and D.
    """

    def __init__(self, slots: int, count: int, width: int, device: torch.device) -> None:
        super().__init__()
        self.count = count
        self.change = nn.ParameterList(
            nn.Parameter(torch.zeros(count, width, device=device, dtype=torch.float32)) for _ in range(slots)
        )

    def forward(self, text_BLD: Tensor, slots: Sequence[int]) -> Tensor:
        """The text with each sample's change added; its dtype stays."""
        zero = torch.zeros_like(self.change[0])
        change_BnD = torch.stack([self.change[slot - 1] if slot else zero for slot in slots])
        start = text_BLD.shape[1] - self.count
        assert start >= 0, f"{self.count} appearance tokens do not fit a text of {text_BLD.shape[1]}"
        tail_BnD = text_BLD[:, start:].float() + GAIN * change_BnD
        return torch.cat([text_BLD[:, :start], tail_BnD.to(text_BLD.dtype)], dim=1)
