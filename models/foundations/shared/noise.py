"""Forward noising for training: how a clean latent is noised, and what the denoiser must predict; steps of sampling.

Two processes cover every family here: DDPM (epsilon or v-prediction, discrete timesteps) and rectified flow
(velocity, continuous timesteps). Both take the timestep as a fraction u in [0, 1), so that "train at high
noise" means the same for each: u near 1 is almost pure noise.

Shapes: x, eps are latents [B, C, F, h, w]; u and t are [B].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from diffusers import CogVideoXDDIMScheduler, DDPMScheduler
from torch import Tensor


class LinearStep(NamedTuple):
    """One step of deterministic sampling of the first order: x_next = keep * x + add * answer."""

    t: Tensor  # the timestep at which the denoiser answers, []
    keep: float
    add: float


def ddim_steps(ddim: Any, steps: int) -> list[LinearStep]:
    """The steps of a DDIM scheduler that clips nothing."""
    ddim.set_timesteps(steps)
    one, zero = torch.ones(()), torch.zeros(())
    return [  # a step is linear, so two scalars give its factors
        LinearStep(t, float(ddim.step(zero, t, one).prev_sample), float(ddim.step(one, t, zero).prev_sample))
        for t in ddim.timesteps
    ]


class NoiseProcess(ABC):
    """x_t = signal(t) * x_0 + sigma(t) * eps, and the denoiser's target for x_t."""

    num_train_timesteps: int
    prediction_type: str

    def timesteps(self, u_B: Tensor, low: float | Tensor = 0.0, high: float | Tensor = 1.0) -> Tensor:
        """Fractions u in [0, 1) -> timesteps in the denoiser's units, restricted to [low, high).

        Args:
            low, high: one range for all samples, or one for each (float64 [B], which rounds as a float does).
        """
        low, high = (torch.as_tensor(bound, dtype=torch.float64, device="cpu") for bound in (low, high))
        assert bool(((low >= 0) & (low < high) & (high <= 1)).all()), (
            f"timestep range [{low}, {high}) must lie in [0, 1]"
        )
        return self._timesteps(low.to(u_B) + (high - low).to(u_B) * u_B)

    @abstractmethod
    def _timesteps(self, fraction_B: Tensor) -> Tensor: ...

    @abstractmethod
    def add(self, x0: Tensor, eps: Tensor, t_B: Tensor) -> Tensor:
        """The noised latents x_t."""

    @abstractmethod
    def target(self, x0: Tensor, eps: Tensor, t_B: Tensor) -> Tensor:
        """What the denoiser should predict for x_t: eps, v or velocity."""


class DDPMNoise(NoiseProcess):
    """Variance-preserving diffusion (Ho et al. 2020, eq. 4); v-prediction as in Salimans & Ho 2022."""

    def __init__(self, scheduler: DDPMScheduler | CogVideoXDDIMScheduler) -> None:
        self.scheduler = scheduler
        self.num_train_timesteps = int(scheduler.config.num_train_timesteps)
        self.prediction_type = str(scheduler.config.prediction_type)
        assert self.prediction_type in ("epsilon", "v_prediction"), self.prediction_type

    def _timesteps(self, fraction_B: Tensor) -> Tensor:
        return (fraction_B * self.num_train_timesteps).long().clamp(0, self.num_train_timesteps - 1)

    def add(self, x0: Tensor, eps: Tensor, t_B: Tensor) -> Tensor:
        return self.scheduler.add_noise(x0, eps, t_B)

    def target(self, x0: Tensor, eps: Tensor, t_B: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return eps
        return self.scheduler.get_velocity(x0, eps, t_B)


class FlowNoise(NoiseProcess):
    """Rectified flow (Liu et al. 2022): x_t = (1 - s) x_0 + s eps, target eps - x_0, timestep s * T.

    `shift` moves timesteps towards noise, as in the model's pretraining: s' = shift s / (1 + (shift - 1) s)
    (Esser et al. 2024, eq. 23).
    """

    prediction_type = "flow"

    def __init__(self, num_train_timesteps: int = 1000, shift: float = 1.0) -> None:
        self.num_train_timesteps = num_train_timesteps
        self.shift = shift

    def _timesteps(self, fraction_B: Tensor) -> Tensor:
        s_B = self.shift * fraction_B / (1 + (self.shift - 1) * fraction_B)
        return s_B * self.num_train_timesteps

    def fraction(self, t: float) -> float:
        """The fraction u whose timestep is t."""
        s = t / self.num_train_timesteps
        return s / (self.shift - (self.shift - 1) * s)

    def _sigma(self, x0: Tensor, t_B: Tensor) -> Tensor:
        return (t_B / self.num_train_timesteps).to(x0.dtype).view(-1, *([1] * (x0.ndim - 1)))

    def add(self, x0: Tensor, eps: Tensor, t_B: Tensor) -> Tensor:
        sigma = self._sigma(x0, t_B)
        return (1 - sigma) * x0 + sigma * eps

    def target(self, x0: Tensor, eps: Tensor, t_B: Tensor) -> Tensor:
        return eps - x0


class InvertedFlowNoise(FlowNoise):
    """Rectified flow whose time runs from noise to data (Mochi): timestep (1 - s) * T, target x_0 - eps."""

    def _timesteps(self, fraction_B: Tensor) -> Tensor:
        return self.num_train_timesteps - super()._timesteps(fraction_B)

    def fraction(self, t: float) -> float:
        return super().fraction(self.num_train_timesteps - t)

    def _sigma(self, x0: Tensor, t_B: Tensor) -> Tensor:
        return super()._sigma(x0, self.num_train_timesteps - t_B)

    def target(self, x0: Tensor, eps: Tensor, t_B: Tensor) -> Tensor:
        return x0 - eps
