"""Two denoisers, each for its own range of noise (Wan 2.2), as one module.

The bank, checkpoints and adapter files see one denoiser whose layers are named `high_noise.` and `low_noise.`. A
forward gives each sample to the expert of its timestep, so a batch may mix both.

Shapes: B samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from models.foundations.shared.groups import routed, sharded
from models.lora.bank import AdapterBank

NAMES = ("high_noise", "low_noise")


class Experts(nn.Module):
    """The experts of a pipeline.

    Args:
        boundary: timestep from which on the high-noise expert answers.
    """

    def __init__(self, high_noise: nn.Module, low_noise: nn.Module, boundary: float) -> None:
        super().__init__()
        self.high_noise, self.low_noise = high_noise, low_noise
        self.boundary = boundary

    @property
    def config(self) -> Any:
        """The configuration of both."""
        return self.high_noise.config

    @property
    def dtype(self) -> torch.dtype:
        return self.high_noise.dtype  # type: ignore[return-value]

    def answer(
        self,
        t_B: Tensor,
        bank: AdapterBank | None,
        ask: Callable[[nn.Module, Tensor | slice], Tensor],
    ) -> Tensor:
        """Each sample's answer from the expert of its timestep.

        Args:
            bank: its current routing is divided with the samples.
            ask: the answer of a denoiser for some of the samples.
        """
        high_B = t_B >= self.boundary
        groups = [(self.high_noise, high_B.nonzero()[:, 0]), (self.low_noise, (~high_B).nonzero()[:, 0])]
        answers: list[Tensor] = []
        unused: list[Tensor] = []
        for expert, rows in groups:
            if len(rows) == len(t_B):
                answers.append(ask(expert, slice(None)))
            elif len(rows) or sharded(expert):
                # A sharded expert is asked even without samples: all workers gather its weights together.
                asked = rows if len(rows) else rows.new_zeros(1)
                with routed(bank, asked):
                    answer = ask(expert, asked)
                (answers if len(rows) else unused).append(answer)
        order = torch.cat([rows for _, rows in groups])
        together = answers[0] if len(answers) == 1 else torch.cat(answers)[order.argsort()]
        for answer in unused:
            together = together + 0 * answer.sum()
        return together
