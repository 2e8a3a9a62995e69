"""Shared parts of the pretraining stages: draws by (seed, step), learning rate, weight average, saved state.

A step draws everything it needs (scenes, noise, timesteps) from generators seeded by (seed, step). So the state of a
run is weights, optimizer, average and step, and a resumed run repeats the uninterrupted one bit for bit.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from infra.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """Learning rate: linear warm-up, flat, then linear decay to zero over the last `decay` share of `steps`.

    It is flat in the middle, so that a run can be extended before its decay begins without changing
    earlier steps.
    """

    peak: float
    steps: int
    warmup: int = 100
    decay: float = 0.25

    def at(self, step: int) -> float:
        left = (self.steps - step) / max(1, round(self.steps * self.decay))
        return self.peak * min(1.0, (step + 1) / self.warmup, max(left, 0.0))


def draws(seed: int, step: int) -> tuple[np.random.Generator, torch.Generator]:
    """The generators of one step: for scenes (numpy) and for noise (torch, on the CPU)."""
    sequence = np.random.SeedSequence([seed, step])
    return np.random.default_rng(sequence), torch.Generator().manual_seed(int(sequence.generate_state(1)[0]))


class Average:
    """Exponential moving average of modules' parameters, whose decay grows to its final value."""

    def __init__(self, modules: list[nn.Module], decay: float) -> None:
        self.decay = decay
        self.live = [p for m in modules for p in m.parameters()]
        self.mean = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.mean, [p.detach() for p in self.live], weight)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange live and averaged weights; a second call restores them."""
        for live, mean in zip(self.live, self.mean, strict=True):
            kept = live.detach().clone()
            live.copy_(mean)
            mean.copy_(kept)


def save_state(path: Path, step: int, modules: dict[str, nn.Module], optimizer, average: Average) -> None:
    """Write a resumable state atomically."""
    state = {
        "step": step,
        "modules": {name: m.state_dict() for name, m in modules.items()},
        "optimizer": optimizer.state_dict(),
        "average": average.mean,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".writing"))
    os.replace(path.with_suffix(".writing"), path)


def load_state(path: Path, modules: dict[str, nn.Module], optimizer, average: Average, device: str) -> int:
    """Restore a state of `save_state`; returns the next step. Raises UserError if the state does not fit."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
        optimizer.load_state_dict(state["optimizer"])
        for mean, kept in zip(average.mean, state["average"], strict=True):
            mean.copy_(kept)
    except (RuntimeError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} is not a state of this pretraining ({str(error).splitlines()[0]}); use another --out."
        ) from None
    return int(state["step"])


def log(folder: Path, record: dict) -> None:
    """Append one line to the run's log.jsonl."""
    with (folder / "log.jsonl").open("a") as file:
        file.write(
            json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in record.items()}) + "\n"
        )


def to_video(clips_BFHWC: np.ndarray, device: str) -> Tensor:
    """Convert uint8 [..., H, W, C] to float [..., C, H, W] in [-1, 1]."""
    return torch.from_numpy(clips_BFHWC).to(device).movedim(-1, -3).float() / 127.5 - 1
