"""Baseline (iv): concepts one after another on one resident model, with their LoRAs as PEFT adapters.

This is what a careful user of stock PEFT would write: each path's adapter is injected once per concept and removed again, text
and latents are computed once, with one AdamW and no gradient to the spatial LoRA in the temporal pass.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch.nn.functional import mse_loss

from benchmarks.training_parts.ours import Losses
from benchmarks.training_parts.tasks import Task
from models.foundations.base import Foundation
from models.lora.bank import AdapterBank
from models.lora.routing import PATHS
from training.adapters import PathTensors


class PeftLoop:
    """A concept's LoRAs on a resident foundation. `close` removes them."""

    def __init__(self, foundation: Foundation, task: Task) -> None:
        assert len(task.clips) == 1, "one spatial adapter: concepts of one clip"
        self.foundation, self.task, config = foundation, task, task.config
        self.parameters: dict[str, list[torch.nn.Parameter]] = {}
        for path in PATHS:
            options: Any = {
                "r": config.rank,
                "lora_alpha": config.rank,
                "lora_dropout": config.dropout,
                "target_modules": list(foundation.targets[path]),
            }
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PEFT warns of a second adapter, which is intended
                inject_adapter_in_model(LoraConfig(**options), foundation.denoiser, adapter_name=path)
        self.layers = {
            name: module
            for name, module in foundation.denoiser.named_modules()
            if isinstance(module, LoraLayer)
        }
        for layer in self.layers.values():
            layer.set_adapter([path for path in PATHS if path in layer.lora_A])
        with torch.no_grad():
            for layer in self.layers.values():
                for a in layer.lora_A.values():
                    torch.nn.init.normal_(a.weight, std=1 / config.rank)
        for layer in self.layers.values():
            layer.lora_dropout.train()
        for path in PATHS:
            self.parameters[path] = [
                p for n, p in foundation.denoiser.named_parameters() if f".{path}." in n and "lora_" in n
            ]
        rates = config.learning_rates()
        self.optimizer = torch.optim.AdamW(
            [{"params": self.parameters[path], "lr": rates[path]} for path in PATHS],
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay_for(1),
        )

    def begin_as(self, bank: AdapterBank) -> None:
        """Copy the initial values of a trainable bank's first slots."""
        with torch.no_grad():
            for path in PATHS:
                for name, (a, b) in bank.extract(path, 1).items():
                    self.layers[name].lora_A[path].weight.copy_(a)
                    self.layers[name].lora_B[path].weight.copy_(b)

    def step(self, number: int) -> Losses:
        """Run step `number` (0-based). Returns (L_s, L_t)."""
        foundation, noise_process, config = self.foundation, self.foundation.noise, self.task.config
        batch = self.task.batch(number, foundation.device)
        clips, frames = batch.clips, batch.frames
        assert clips is not None, "every step of the method as published has both passes"
        assert frames is not None, "every step of the method as published has both passes"
        t_B = noise_process.timesteps(clips.level_N)
        x0, noise, text_BLD = clips.x0, clips.noise, clips.text_NLD
        self.optimizer.zero_grad(set_to_none=True)

        frame, frame_noise = frames.x0, frames.noise
        pred = foundation.predict(noise_process.add(frame, frame_noise, t_B), t_B, text_BLD)
        spatial = mse_loss(pred, noise_process.target(frame, frame_noise, t_B))
        spatial.backward()

        for parameter in self.parameters["spatial"]:
            parameter.requires_grad_(False)
        pred = foundation.predict(noise_process.add(x0, noise, t_B), t_B, text_BLD)
        error = pred - noise_process.target(x0, noise, t_B)
        anchor = error[:, :, int(batch.anchor_N[0])].unsqueeze(2)
        debiased = (config.beta**2 + 1) ** 0.5 * error - config.beta * anchor
        temporal = error.square().mean() + debiased.square().mean()
        temporal.backward()
        for parameter in self.parameters["spatial"]:
            parameter.requires_grad_(True)
        if config.max_gradient_norm:
            for path in PATHS:
                torch.nn.utils.clip_grad_norm_(self.parameters[path], config.max_gradient_norm)
        self.optimizer.step()
        return [(spatial.item(), temporal.item())]

    def tensors(self) -> PathTensors:
        """The adapters in a bank's format."""
        return {
            path: {
                name: (
                    self.layers[name].lora_A[path].weight.detach().clone(),
                    self.layers[name].lora_B[path].weight.detach().clone(),
                )
                for name in self.foundation.targets[path]
            }
            for path in PATHS
        }

    def close(self) -> None:
        """Remove the adapters; empty PEFT layers stay for the next concept."""
        for layer in self.layers.values():
            for path in [path for path in PATHS if path in layer.lora_A]:
                layer.delete_adapter(path)
