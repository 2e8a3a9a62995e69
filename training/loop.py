"""The training loop of one concept: plain Python over an engine, no cluster.

    bank = foundation.add_bank(**bank_options(config, len(clips)))
    engine = PlainEngine(DualStep(foundation, config), make_optimizer(bank, config, len(clips)))
    for report in train(engine, "orbit", clips):
        ...                                  # checkpoint, print, stop: the caller's business
    adapter = bank.extract("temporal", 1)

It is a generator: it yields after every optimizer step, with the model in the state of that step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from infra.errors import ConceptError, UserError
from models.lora_slots import Rank
from models.routing import Path
from training.config import TrainConfig
from training.draws import Place, clips_of_step, draw, passes_of
from training.engine import Engine, set_active
from training.optim import learning_rate_factor
from training.step import Sample, TrainingClip, collate


@dataclass(frozen=True)
class StepReport:
    """What a step did. Losses are means over all samples of the step, on all workers."""

    step: int  # steps done, from 1
    steps: int
    loss: float
    spatial_loss: float
    temporal_loss: float
    learning_rate: float
    seconds: float

    def asdict(self) -> dict[str, Any]:
        return asdict(self)


def bank_slots(config: TrainConfig, clips: int) -> dict[Path, int]:
    """The slots one concept needs: one temporal for all clips, one spatial for each (or for all, or none)."""
    if not has_spatial(config):
        return {"spatial": 0, "temporal": 1}
    return {"spatial": 1 if shared_spatial(config) else clips, "temporal": 1}


def bank_options(config: TrainConfig, clips: int) -> dict[str, Any]:
    """The arguments of `Foundation.add_bank` for the training of one concept."""
    rank: Rank = "full" if config.method == "full" else config.rank
    return {
        "slots": bank_slots(config, clips),
        "rank": rank,
        "trainable": True,
        "seed": config.seed,
        "tokens": config.appearance_tokens,
        "without": () if config.spatial_lora else ("spatial",),
    }


def has_spatial(config: TrainConfig) -> bool:
    """Whether spatial LoRAs learn beside the temporal one: not where the temporal layers are fine-tuned alone."""
    return config.method != "full"


def shared_spatial(config: TrainConfig) -> bool:
    """Whether one spatial LoRA serves all clips: when asked, and in the coupled baseline, which is one pair."""
    return config.single_spatial or config.method == "coupled"


def spatial_slot(config: TrainConfig, clip: int) -> int:
    """The spatial slot of clip number `clip` (0-based); 0 where there is none."""
    if not has_spatial(config):
        return 0
    return 1 if shared_spatial(config) else clip + 1


def active_slots(
    config: TrainConfig, concept: str, step: int, clips: int, place: Place
) -> set[tuple[Path, int]]:
    """The slots that any sample of this step trains, on any worker."""
    passes = passes_of(config, concept, step)
    active: set[tuple[Path, int]] = {("temporal", 1)} if passes.temporal else set()
    learns = passes.spatial or config.method == "coupled"  # which learns appearance from whole clips
    if has_spatial(config) and learns:
        chosen = clips_of_step(config.seed, concept, step, clips, place)
        active |= {("spatial", spatial_slot(config, clip)) for clip in chosen}
    return active


def train(
    engine: Engine, concept: str, clips: Sequence[TrainingClip], *, start: int = 0
) -> Iterator[StepReport]:
    """Train from step `start` to `config.steps`, yielding after each step.

    Raises:
        UserError: the loss is no longer a number.
    """
    config = engine.module.config
    foundation = engine.module.foundation
    device = foundation.device
    for step in range(start, config.steps):
        began = time.perf_counter()
        factor = factor_of(config, step)
        active = active_slots(config, concept, step, len(clips), engine.place)
        set_active(engine.optimizer, dict.fromkeys(active, factor))
        sums = torch.zeros(2, device=device)
        for micro in range(config.gradient_accumulation):
            samples = [
                sample_of(config, concept, step, index, clips, engine.place.global_batch)
                for index in engine.place.indices(micro)
            ]
            spatial_B, temporal_B = engine.losses(collate(samples, device))
            engine.backward((spatial_B + temporal_B).mean())
            engine.step()
            sums += torch.stack([spatial_B.detach().mean(), temporal_B.detach().mean()])
        spatial, temporal = engine.mean(sums / config.gradient_accumulation).tolist()
        if not math.isfinite(spatial + temporal):
            raise diverged(config, concept, step, spatial + temporal)
        yield StepReport(
            step=step + 1,
            steps=config.steps,
            loss=spatial + temporal,
            spatial_loss=spatial,
            temporal_loss=temporal,
            learning_rate=config.learning_rate * factor,
            seconds=time.perf_counter() - began,
        )


def factor_of(config: TrainConfig, step: int) -> float:
    """What the peak learning rates are multiplied by at `step` (0-based)."""
    return learning_rate_factor(
        step, schedule=config.schedule, warmup_steps=config.warmup_steps, steps=config.steps
    )


def diverged(config: TrainConfig, concept: str, step: int, loss: float) -> UserError:
    """The error of a loss that is no longer a number at `step` (0-based)."""
    return ConceptError(
        f"concept {concept}: the loss became {loss} at step {step + 1}; lower --learning-rate "
        f"(it is {config.learning_rate:g}) or check the clips.",
        code="diverged",
    )


def sample_of(
    config: TrainConfig,
    concept: str,
    step: int,
    index: int,
    clips: Sequence[TrainingClip],
    global_batch: int,
) -> Sample:
    """Sample `index` of step `step` (0-based), in the slots of a bank for this concept alone."""
    like = clips[0]
    drawn = draw(
        config,
        concept=concept,
        step=step,
        index=index,
        global_batch=global_batch,
        clips=len(clips),
        latent_shape=tuple(like.latents_CFHW.shape),  # type: ignore[arg-type]
        frames=len(like.frame_latents_FC1HW),
    )
    return Sample(clips[drawn.clip], drawn, spatial_slot(config, drawn.clip), temporal_slot=1)
