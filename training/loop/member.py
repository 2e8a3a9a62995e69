"""One concept to train: its settings and clips, the bank slots it needs, and the samples and slots of each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from infra.errors import ConceptError, InvalidInput, UserError
from models.foundations.base import Bucket, Foundation
from models.lora.routing import LoraPath
from models.lora.slots import Rank
from training.config import TrainConfig
from training.loop.draws import Place, clips_of_step, draw, passes_of
from training.loop.generated import GeneratedClip, draw_generated, generate_references, look_of_each
from training.loop.optim import learning_rate_factor
from training.loop.step import Sample, TrainingClip
from training.loop.weights import LossWeights, loss_weights
from training.methods import WITHOUT_TEMPORAL_PASS


@dataclass(frozen=True)
class Member:
    """One concept to train, as a member of a pack."""

    name: str  # tells the members of a pack apart
    concept: str  # part of every draw
    config: TrainConfig  # resolved: its frames, height and width are set
    clips: Sequence[TrainingClip] = field(repr=False)

    def slots(self) -> dict[LoraPath, int]:
        """Number of slots of each path that it needs."""
        return bank_slots(self.config, len(self.clips))

    def factor(self, step: int) -> float:
        """Multiplier of the peak learning rates at `step` (0-based)."""
        config = self.config
        factor = learning_rate_factor(
            step, schedule=config.schedule, warmup_steps=config.warmup_steps, steps=config.steps
        )
        last = config.generated_steps
        return factor * min(1.0, (config.steps - step) / last) if last else factor

    def active_slots(self, step: int, place: Place) -> set[tuple[LoraPath, int]]:
        """The slots of this member that the step trains, over all workers."""
        config = self.config
        passes = passes_of(config, self.concept, step)
        active: set[tuple[LoraPath, int]] = {("temporal", 1)} if passes.temporal else set()
        learns = passes.spatial or config.method == "coupled"  # coupled learns appearance from whole clips
        if has_spatial(config) and learns:
            chosen = clips_of_step(config.seed, self.concept, step, len(self.clips), place)
            active |= {("spatial", spatial_slot(config, clip)) for clip in chosen}
        return active

    def sample(
        self,
        step: int,
        index: int,
        place: Place,
        boundary: float | None = None,
        generated_NCFHW: Tensor | None = None,
    ) -> Sample:
        """Sample `index` of step `step` (0-based), in the slots of a bank for this concept alone.

        Args:
            boundary: the noise level between the foundation's experts, if it has two.
            generated_NCFHW: latents of the generated references, if the step learns from them.
        """
        like = self.clips[0]
        drawn = draw(
            self.config,
            concept=self.concept,
            step=step,
            index=index,
            global_batch=place.global_batch,
            clips=len(self.clips),
            latent_shape=tuple(like.latents_CFHW.shape),  # type: ignore[arg-type]
            frames=len(like.frame_latents_FC1HW),
            frame_latents=like.frame_latents_FC1HW.shape[2],
            boundary=boundary,
        )
        temporal_slot = 1 if has_temporal(self.config) else 0
        count = 0 if generated_NCFHW is None else len(generated_NCFHW)
        made = draw_generated(self.config, self.concept, step, index, count)
        if made is not None:
            assert generated_NCFHW is not None
            clip = GeneratedClip(generated_NCFHW[made], self.look_texts[made], like.empty_text_LD)
            return Sample(clip, drawn, 0, temporal_slot)
        slot, weights = spatial_slot(self.config, drawn.clip), self.weights[drawn.clip]
        return Sample(self.clips[drawn.clip], drawn, slot, temporal_slot, weights=weights)

    @cached_property
    def look_texts(self) -> list[Tensor]:
        """The embedding of each generated reference's prompt."""
        return look_of_each(self.config, self.concept, self.clips[0].look_texts)

    def generate(self, foundation: Foundation, slot: int) -> Tensor:
        """Make the generated references with the adapter in this temporal slot: latents [N, C, F, H, W]."""
        clips, empty_LD = [clip.latents_CFHW for clip in self.clips], self.clips[0].empty_text_LD
        return generate_references(
            foundation, self.config, self.concept, clips, self.look_texts, empty_LD, slot
        )

    @cached_property
    def weights(self) -> list[LossWeights | None]:
        """The weights of each clip's losses. Raises ConceptError ("invalid_mask") if they leave nothing of one to learn."""
        found = []
        for number, clip in enumerate(self.clips):
            try:
                found.append(loss_weights(self.config, clip.coverage))
            except ValueError as error:
                raise ConceptError(
                    f"{self._name_of(number)}: {error}; set both above 0, or take the clip out.",
                    code="invalid_mask",
                ) from None
        return found

    def _name_of(self, number: int) -> str:
        """How errors name clip `number` (from 0)."""
        return f"clip {getattr(self.clips[number], 'clip_id', '')[:12] or number + 1} of {self.concept}"

    def check_clips(self, foundation: Foundation, bucket: Bucket) -> None:
        """Raises UserError ("invalid_latents", "invalid_mask"), with the clip's name, if a clip cannot be trained on."""
        if not self.clips:
            raise InvalidInput(f"{self.name} has no clips; give at least one.", code="invalid_latents")
        shape = foundation.clip_shape(bucket)
        for number, clip in enumerate(self.clips):
            if tuple(clip.latents_CFHW.shape) != shape:
                raise InvalidInput(
                    f"{self._name_of(number)} has latents {tuple(clip.latents_CFHW.shape)}, expected {shape} at {bucket}; prepare "
                    "it at that size.",
                    code="invalid_latents",
                )
            tensors = (clip.latents_CFHW, clip.frame_latents_FC1HW, clip.text_LD)
            if not all(torch.isfinite(tensor).all() for tensor in tensors):
                raise InvalidInput(
                    f"{self._name_of(number)} has NaN or infinite latents or text; delete its cached latents and prepare it again.",
                    code="invalid_latents",
                )
        assert len(self.weights) == len(self.clips)  # raises for a mask that leaves nothing

    def check_experts(self, foundation: Foundation) -> None:
        """Raises InvalidInput if a step of the run would have no noise level to train on."""
        config, boundary = self.config, foundation.boundary
        if boundary is None:
            if config.experts != "both":
                raise InvalidInput(
                    f"{foundation.name} has one denoiser, so experts {config.experts} names none; leave it out.",
                    code="invalid_setting",
                )
            return
        for step in (
            config.appearance_steps,
            config.steps - 1,
        ):  # the motion begins with high noise and ends with low
            low, high = config.noise_range(step, boundary)
            if low >= high:
                other = "low_noise" if config.expert_of(step) == "high_noise" else "high_noise"
                raise InvalidInput(
                    f"timestep_low {config.timestep_low:g} and timestep_high {config.timestep_high:g} leave the "
                    f"{config.expert_of(step)} expert of {foundation.name} nothing to learn: they meet at {boundary:.3g}; set "
                    f"experts {other}, or other levels.",
                    code="invalid_setting",
                )

    def diverged(self, step: int, loss: float) -> UserError:
        """The error to raise if the loss is not finite at `step` (0-based)."""
        return ConceptError(
            f"concept {self.concept}: the loss became {loss} at step {step + 1}; lower --learning-rate "
            f"(it is {self.config.learning_rate:g}) or check the clips.",
            code="diverged",
        )


def bank_slots(config: TrainConfig, clips: int) -> dict[LoraPath, int]:
    """The slots one concept needs: one temporal for all clips (or none), one spatial for each (or for all, or none)."""
    spatial = (1 if shared_spatial(config) else clips) if has_spatial(config) else 0
    return {"spatial": spatial, "temporal": 1 if has_temporal(config) else 0}


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
    """Whether spatial LoRAs are trained. Method full fine-tunes only the temporal layers."""
    return config.method != "full"


def has_temporal(config: TrainConfig) -> bool:
    """Whether a temporal LoRA, or the temporal layers, are trained. Method appearance trains the spatial LoRA alone."""
    return config.method not in WITHOUT_TEMPORAL_PASS


def shared_spatial(config: TrainConfig) -> bool:
    """Whether one spatial LoRA serves all clips: with `single_spatial`, in the coupled baseline (one LoRA pair), and where
    it is what is published (method appearance)."""
    return config.single_spatial or config.method == "coupled" or not has_temporal(config)


def spatial_slot(config: TrainConfig, clip: int) -> int:
    """The spatial slot of clip number `clip` (0-based); 0 if there is none."""
    if not has_spatial(config):
        return 0
    return 1 if shared_spatial(config) else clip + 1
