"""Training in this process, without Ray: one concept, on a foundation that is already loaded.

    tensors = train_local(foundation, "orbit", clips, config)
    write_adapters(folder, foundation, tensors, describe(config, "orbit", clips))   # training/adapters.py

What `evaluate --against` and the study train their baselines with. The same seeds, the same loop and bank as a run on
Ray Train with one worker, and so the same bits (tested), given as many torch threads (training/threads.py): sums that
are split among threads round otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from infra.errors import UserError
from models.dtypes import short_dtype
from models.foundation import Foundation
from training.adapters import PathTensors
from training.config import TrainConfig, sampled_paths
from training.engine import PlainEngine, make_optimizer
from training.loop import StepReport, bank_options, train
from training.step import DualStep, TrainingClip


def train_local(
    foundation: Foundation,
    concept: str,
    clips: Sequence[TrainingClip],
    config: TrainConfig,
    *,
    on_step: Callable[[StepReport], None] | None = None,
) -> PathTensors:
    """Train one concept to the end and return the adapters that generation uses: {path: {layer: (A, B)}}, on the CPU.

    The foundation is left as it was found: its bank, if it has one, is set aside meanwhile and comes back.

    Args:
        concept: its name is part of every draw, as in a run.
        clips: their latents and text, all of one shape (`datasets.latents.prepare`).
        config: with one worker and ZeRO 0, `dtype` that of the foundation.
        on_step: called after each step.

    Raises:
        UserError: a configuration that this process cannot follow, or a loss that is no longer a number.
    """
    check_local(foundation, config)
    with (
        torch.enable_grad(),
        foundation.passing_bank(**bank_options(config, len(clips))) as bank,
        foundation.gradient_checkpointing(config.gradient_checkpointing),
    ):
        engine = PlainEngine(DualStep(foundation, config), make_optimizer(bank, config, len(clips)))
        for report in train(engine, concept, clips):
            if on_step is not None:
                on_step(report)
        return {path: bank.extract(path, 1) for path in sampled_paths(config)}


def check_local(foundation: Foundation, config: TrainConfig) -> None:
    """What would silently give another adapter than the same settings do in a run is refused. Raises UserError."""
    if config.worker_range[0] > 1 or config.zero:
        raise UserError(
            f"training in one process was asked for with workers {config.workers} and zero {config.zero}; give workers "
            "1 and zero 0, or use `motiondirector train`."
        )
    own = short_dtype(str(foundation.dtype))
    if own != config.dtype:
        raise UserError(
            f"the settings ask for dtype {config.dtype}, the foundation was loaded in {own}; load it in {config.dtype} "
            "or set dtype."
        )
