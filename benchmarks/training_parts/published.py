"""Baseline (i): the structure of the published algorithm (arXiv 2310.08465), written from its description.

As in the published run, the model is loaded for each concept, every target Linear is replaced by one followed by a LoRA (the
spatial ones once per clip), and there are two AdamW optimizers. Each step encodes the caption, draws one noise and timestep,
runs the UNet on one frame with the temporal LoRA's scale at 0, then on the whole clip with both scales at 1, and runs a
separate backward pass for each loss. Gradient checkpointing is on in the published settings.

Details: latents are encoded once at the start, as in its settings. Noise, timesteps and frames come from our
`training.loop.draws`, so that losses can be compared. Single-frame passes skip temporal layers as in its modified UNet, here
through our foundation. One fault is not reproduced: the published spatial optimizer steps before the temporal backward pass,
which fails in float32. Here the temporal backward pass comes first, and its part of the spatial LoRA's gradient is dropped.
The forward passes, backward passes and updates are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.checkpoint import checkpoint

from benchmarks.training_parts.ours import Losses
from benchmarks.training_parts.tasks import Task
from models.foundations.base import Foundation
from models.lora.bank import AdapterBank
from models.lora.routing import PATHS, LoraPath
from training.adapters import PathTensors


class LoraLinear(nn.Module):
    """A frozen Linear followed by LoRAs with a scale each: `base(x) + sum dropout(up(down(x))) * scale`."""

    def __init__(self, base: nn.Linear, loras: int, rank: int, dropout: float) -> None:
        super().__init__()
        self.base = base
        self.in_features, self.out_features = base.in_features, base.out_features
        self.down = nn.ModuleList(nn.Linear(base.in_features, rank, bias=False) for _ in range(loras))
        self.up = nn.ModuleList(nn.Linear(rank, base.out_features, bias=False) for _ in range(loras))
        self.dropout = nn.Dropout(dropout)
        self.scales = [0.0] * loras
        for down, up in zip(self.down, self.up, strict=True):
            nn.init.normal_(down.weight, std=1 / rank)
            nn.init.zeros_(up.weight)
        self.to(base.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        for down, up, scale in zip(self.down, self.up, self.scales, strict=True):
            if scale:  # a LoRA that is off costs nothing, which favours this side over multiplying by 0
                y = y + self.dropout(up(down(x))) * scale
        return y


class Published:
    """One concept on a foundation that it uses exclusively: the layers stay replaced.

    Args:
        checkpointing: recompute the blocks' activations in the backward pass, as in the published settings.
    """

    def __init__(self, foundation: Foundation, task: Task, *, checkpointing: bool = True) -> None:
        self.foundation, self.task, config = foundation, task, task.config
        counts = {"spatial": 1 if config.single_spatial else len(task.clips), "temporal": 1}
        self.loras: dict[LoraPath, dict[str, LoraLinear]] = {"spatial": {}, "temporal": {}}
        for path in PATHS:
            for name in foundation.targets[path]:
                linear = foundation.denoiser.get_submodule(name)
                lora = LoraLinear(linear, counts[path], config.rank, config.dropout)
                foundation.denoiser.set_submodule(name, lora)
                self.loras[path][name] = lora
        # The base stays in eval mode, as on our side, so its temporal convolutions have no dropout.
        for lora in (lora for of in self.loras.values() for lora in of.values()):
            lora.dropout.train()
        if checkpointing:
            for block in foundation.checkpointed_blocks():
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        rates = config.learning_rates()
        self.optimizers = {
            path: torch.optim.AdamW(
                list(self._parameters(path)),
                lr=rates[path],
                betas=(config.adam_beta1, config.adam_beta2),
                eps=config.adam_epsilon,
                weight_decay=config.weight_decay_for(len(task.clips)),
            )
            for path in PATHS
        }
        tokenizer = foundation.pipeline.tokenizer
        self.token_ids = [
            tokenizer(
                clip.caption,
                padding="max_length",
                truncation=True,
                max_length=tokenizer.model_max_length,
                return_tensors="pt",
            ).input_ids.to(foundation.device)
            for clip in task.clips
        ]

    def begin_as(self, bank: AdapterBank) -> None:
        """Copy the initial values of a trainable bank's first slots."""
        with torch.no_grad():
            for path in PATHS:
                for number in range(1, bank.slots[path] + 1):
                    for name, (a, b) in bank.extract(path, number).items():
                        self.loras[path][name].down[number - 1].weight.copy_(a)
                        self.loras[path][name].up[number - 1].weight.copy_(b)

    def _parameters(self, path: LoraPath) -> Iterator[nn.Parameter]:
        for lora in self.loras[path].values():
            yield from (*lora.down.parameters(), *lora.up.parameters())

    def _scale(self, path: LoraPath, which: int | None) -> None:
        for lora in self.loras[path].values():
            lora.scales = [float(number == which) for number in range(len(lora.scales))]

    def step(self, number: int) -> Losses:
        """Run step `number` (0-based). Returns (L_s, L_t)."""
        foundation, noise_process = self.foundation, self.foundation.noise
        config = self.task.config
        batch = self.task.batch(number, foundation.device)
        clips, frames = batch.clips, batch.frames
        assert clips is not None, "every step of the method as published has both passes"
        assert frames is not None, "every step of the method as published has both passes"
        clip = clips.spatial_slots[0] - 1
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            text_BLD = foundation.pipeline.text_encoder(self.token_ids[clip])[0]
        t_B = noise_process.timesteps(clips.level_N)
        x0, noise = clips.x0, clips.noise
        target = noise_process.target(x0, noise, t_B)

        self._scale("spatial", clip)
        self._scale("temporal", None)
        frame, frame_noise = frames.x0, frames.noise
        pred = self._unet(noise_process.add(frame, frame_noise, t_B), t_B, text_BLD)
        spatial = mse_loss(pred.float(), noise_process.target(frame, frame_noise, t_B).float())

        self._scale("temporal", 0)
        pred = self._unet(noise_process.add(x0, noise, t_B), t_B, text_BLD)
        anchor = int(batch.anchor_N[0])
        alpha, beta = (config.beta**2 + 1) ** 0.5, config.beta
        debiased_pred = alpha * pred - beta * pred[:, :, anchor].unsqueeze(2)
        debiased_target = alpha * target - beta * target[:, :, anchor].unsqueeze(2)
        temporal = mse_loss(pred.float(), target.float()) + mse_loss(debiased_pred, debiased_target)

        temporal.backward()
        self.optimizers["spatial"].zero_grad(set_to_none=True)
        spatial.backward()
        if config.max_gradient_norm:
            for path in PATHS:
                nn.utils.clip_grad_norm_(self._parameters(path), config.max_gradient_norm)
        for optimizer in self.optimizers.values():
            optimizer.step()
        return [(spatial.item(), temporal.item())]

    def _unet(self, latents: Tensor, t_B: Tensor, text_BLD: Tensor) -> Tensor:
        return self.foundation.denoiser(latents, t_B, encoder_hidden_states=text_BLD).sample

    def tensors(self) -> PathTensors:
        """The adapters in a bank's format."""
        return {
            path: {
                name: (lora.down[0].weight.detach().clone(), lora.up[0].weight.detach().clone())
                for name, lora in self.loras[path].items()
            }
            for path in PATHS
        }
