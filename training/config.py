"""All settings of a training run, defined once.

`TrainConfig` defines the options of `motiondirector train`, the YAML file, a batch manifest's overrides
and the `config.yaml` saved with the run. Values are looked up in this order: the command line, the YAML
file, the foundation's recommendation (`training/recommended.py`), and the defaults here. The defaults are those of the
paper's published code (arXiv 2310.08465) for ZeroScope-sized models. `training/methods.py` says which settings a method has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from infra.errors import InvalidInput
from infra.setting import setting
from models.dtypes import DTYPES, TrainingDtype
from training.methods import (
    WITHOUT_SPATIAL_PASS,
    WITHOUT_TEMPORAL_PASS,
    appearance_steps,
    check_method,
    generated_steps,
)

if TYPE_CHECKING:  # the command line reads the settings without importing torch
    from models.lora.routing import LoraPath

METHOD = "Method"
OPTIMIZER = "Optimizer"
CLUSTER = "Workers"
RECORDS = "Checkpoints and samples"


class TrainConfig(BaseModel):
    """All settings of one concept's training. Frozen: they never change during a run."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # ------------------------------------------------------------------ method
    method: Literal["dual", "motiondirector", "appearance", "no-debias", "coupled", "full"] = setting(
        "dual",
        METHOD,
        "dual: learns appearance and motion in separate paths, the motion debiased as the foundation recommends. "
        "motiondirector: dual as in the paper, with both paths in every step, uniform noise levels, no appearance tokens. "
        "appearance: learns only what the clips look like, in one spatial LoRA, from single frames. "
        "Baselines for comparison: no-debias leaves out the debiased term of dual; coupled trains one joint LoRA pair on "
        "whole clips; full fine-tunes the temporal layers on whole clips, without LoRA, as Tune-A-Video does.",
    )
    steps: int = setting(
        300,
        METHOD,
        "Optimizer steps. The paper uses 50-150 for one clip and 300-1000 for several; a foundation may recommend others.",
        ge=1,
        le=1_000_000,
    )
    rank: int = setting(
        32,
        METHOD,
        "Rank of both LoRAs. A higher rank memorises more, including the appearance. Has no effect with method full.",
        ge=1,
        le=512,
    )
    dropout: float = setting(
        0.1,
        METHOD,
        "Dropout on the LoRA's output, against memorising a few clips. Has no effect with method full.",
        ge=0,
        lt=1,
    )
    beta: float = setting(
        1.0,
        METHOD,
        "Strength of debiasing. At 1, the debiased loss weights an error common to all frames (appearance) by "
        "0.17 and an error that differs between frames (motion) by 3. 0 doubles the plain loss.",
        ge=0,
        le=10,
    )
    skip_spatial: float = setting(
        0.0,
        METHOD,
        "Share of steps that skip the spatial pass and turn the spatial LoRA off, so that the temporal LoRA also "
        "learns to work without it, as it must at inference. The published code uses 0.2.",
        ge=0,
        le=1,
    )
    appearance_share: float = setting(
        0.0,
        METHOD,
        "Share of the steps, at the start, that learn only each clip's appearance, from single frames; the other steps "
        "learn only the motion, with the appearance known. 0: learn both in every step, as published.",
        ge=0,
        lt=1,
    )
    appearance_frames: int = setting(
        4,
        METHOD,
        "Frames of a clip in each step of the appearance share, or of method appearance, each at its own noise level.",
        ge=1,
        le=64,
    )
    appearance_tokens: int = setting(
        0,
        METHOD,
        "Number of learned text vectors per clip. They replace the last vectors of its caption and describe what the "
        "caption leaves out, so that the motion need not learn it (textual inversion, arXiv 2208.01618). Not used in "
        "generation.",
        ge=0,
        le=64,
    )
    appearance_preservation: float = setting(
        0.0,
        METHOD,
        "Above 0, replaces the debiased loss: the motion is learned only from what differs between frames, and what all "
        "frames share is held to the base model's prediction with this weight. Costs one more forward of the base per step.",
        ge=0,
        le=100,
    )
    caption_dropout: float = setting(
        0.0,
        METHOD,
        "Share of the motion samples that are trained without their caption; appearance tokens stay. The motion then "
        "depends less on the words of the caption, and classifier-free guidance removes less of it.",
        ge=0,
        le=1,
    )
    acts_until: float = setting(
        1.0,
        METHOD,
        "Part of the denoising steps in which the motion adapter acts when videos are made, unless a request says otherwise: "
        "0.5 is the first half. Motion is decided at high noise; the base model's later steps keep the looks of the prompt.",
        gt=0,
        le=1,
    )
    strength: float = setting(
        1.0,
        METHOD,
        "Factor by which the finished motion adapter is multiplied: above 1, a video at scale 1 follows the motion more. "
        "Checkpoints keep what was learned.",
        gt=0,
        le=2,
    )
    generated_references: int = setting(
        0,
        METHOD,
        "Number of videos of the motion in other looks that the run makes with its own adapter, to learn the motion from them, "
        "too. Their looks vary, so only the motion is left to learn.",
        ge=0,
        le=1024,
    )
    generated_share: float = setting(
        0.0,
        METHOD,
        "Share of the steps, at the end, that learn from generated references: three quarters of their samples, beside the "
        "clips. Their noise levels are uniform, and the learning rate falls to 0 over them.",
        ge=0,
        lt=1,
    )
    generated_prompts: tuple[str, ...] = setting(
        (),
        METHOD,
        "Prompt of a generated reference, which names a subject and its looks (repeat the option). The references have all of "
        "them in turn.",
        option="--generated-prompt",
    )
    spatial_lora: bool = setting(
        True,
        METHOD,
        "Train a spatial LoRA for each clip, as published. Without it, only the tokens learn the clip's appearance.",
    )
    single_spatial: bool = setting(
        False,
        METHOD,
        "Train one spatial LoRA for all clips instead of one per clip, for clips of the same subject and scene.",
    )
    mask_inside: float = setting(
        1.0,
        METHOD,
        "For clips with masks (`ingest --masks`): weight of the losses inside the mask. Only the ratio to mask_outside "
        "matters: the weights of a clip are scaled to a mean of 1.",
        ge=0,
        le=1000,
    )
    mask_outside: float = setting(
        1.0,
        METHOD,
        "For clips with masks: weight of the losses outside the mask. 0 learns only what is inside.",
        ge=0,
        le=1000,
    )
    timestep_low: float = setting(
        0.0,
        METHOD,
        "Lowest noise level to train on, as a fraction of the schedule. Motion is decided at high noise, so 0.35 "
        "learns it faster on small models.",
        ge=0,
        lt=1,
    )
    timestep_high: float = setting(
        1.0, METHOD, "Highest noise level to train on, as a fraction of the schedule.", gt=0, le=1
    )
    noise_bias: float = setting(
        1.0,
        METHOD,
        "Distribution of noise levels in this range: a uniform draw is raised to this power, so 1 is uniform and "
        "below 1 favours high noise, where motion is decided.",
        gt=0,
        le=10,
    )
    experts: Literal["both", "high_noise", "low_noise"] = setting(
        "both",
        METHOD,
        "For a model of two experts (Wan 2.2): which of them learn. Each learns on its own noise levels; the other stays as "
        "it is, and leaves the looks (high_noise) or the motion (low_noise) to the base model.",
    )
    high_noise_share: float = setting(
        0.5,
        METHOD,
        "For a model of two experts: share of the motion's steps, at the start, in which the high-noise expert learns; the "
        "low-noise expert learns in the others. The high-noise expert decides the motion and overtrains first.",
        gt=0,
        lt=1,
    )
    offset_noise: float = setting(
        0.0,
        METHOD,
        "Strength of the noise shared by all pixels of a frame. It helps models that cannot generate very dark or "
        "bright clips; 0.1 is usual.",
        ge=0,
        le=1,
    )
    frames: int | None = setting(
        None, METHOD, "Frames of each training clip; the foundation's own when not given.", ge=2, le=1024
    )
    height: int | None = setting(
        None, METHOD, "Height in pixels; the foundation's own when not given.", ge=8, le=8192
    )
    width: int | None = setting(
        None, METHOD, "Width in pixels; the foundation's own when not given.", ge=8, le=8192
    )
    fps: float | None = setting(
        None,
        METHOD,
        "Frames per second of each training clip; the foundation's own when not given. Of faster clips, every n-th frame is "
        "used; slower clips are refused. 0: use every frame, whatever speed the motion then has.",
        ge=0,
        le=240,
    )
    windows: int = setting(
        4,
        METHOD,
        "Largest number of windows to learn from a clip longer than `frames`. They are spread over the clip, and each "
        "counts as a clip. 1: only its beginning.",
        ge=1,
        le=1024,
    )
    seed: int = setting(
        0,
        METHOD,
        "Random seed. All draws of a step depend only on (seed, concept, step, rank), so the same seed gives the same "
        "adapter.",
        ge=0,
        lt=2**63,
    )

    # --------------------------------------------------------------- optimizer
    learning_rate: float = setting(
        5e-4,
        OPTIMIZER,
        "AdamW's learning rate for the temporal LoRA, or temporal layers; with method appearance for the spatial LoRA.",
        gt=0,
        le=1,
    )
    spatial_learning_rate: float | None = setting(
        None, OPTIMIZER, "Learning rate of the spatial LoRAs; the temporal one's when not given.", gt=0, le=1
    )
    weight_decay: float | None = setting(
        None,
        OPTIMIZER,
        "AdamW's weight decay; when not given, 1e-2 for one clip and 1e-4 for several.",
        ge=0,
        lt=1,
    )
    adam_beta1: float = setting(0.9, OPTIMIZER, "AdamW's first moment decay.", ge=0, lt=1)
    adam_beta2: float = setting(0.999, OPTIMIZER, "AdamW's second moment decay.", ge=0, lt=1)
    adam_epsilon: float = setting(1e-8, OPTIMIZER, "AdamW's epsilon.", gt=0, lt=1)
    schedule: Literal["constant", "linear", "cosine"] = setting(
        "constant", OPTIMIZER, "Learning rate schedule after the warm-up; linear and cosine end at 0."
    )
    warmup_steps: int = setting(
        0, OPTIMIZER, "Steps over which the learning rate rises from 0.", ge=0, le=1_000_000
    )
    batch_size: int = setting(1, OPTIMIZER, "Clips in one forward, on each worker.", ge=1, le=256)
    gradient_accumulation: int = setting(
        1,
        OPTIMIZER,
        "Forward and backward passes per optimizer step: a larger batch in the same memory.",
        ge=1,
        le=1024,
    )
    max_gradient_norm: float = setting(
        1.0,
        OPTIMIZER,
        "Norm that the gradient of each LoRA is clipped to; 0 turns clipping off. Each slot of the bank is clipped "
        "separately, so that one never scales another.",
        ge=0,
    )

    # ----------------------------------------------------------------- cluster
    workers: int | str = setting(
        1,
        CLUSTER,
        "Data-parallel workers, or min:max for a run that grows and shrinks with the cluster (only with zero 0).",
    )
    zero: Literal[0, 1, 2, 3] = setting(
        0,
        CLUSTER,
        "DeepSpeed's ZeRO stage. At 0, a run can continue with any number of workers. 3 also shards the base, for a model that "
        "does not fit one GPU: each worker reads it into its node's memory and keeps a shard. LoRAs are small, so 1 and 2 "
        "save little.",
    )
    dtype: TrainingDtype = setting(
        "fp32",
        CLUSTER,
        "Precision of the frozen base; bf16 halves its memory. The LoRAs stay fp32.",
        metavar="fp32|bf16",
    )
    quantize: Literal["none", "int8"] = setting(
        "none",
        CLUSTER,
        "int8: the weights of the base's blocks have one byte per value, half of bf16. The LoRAs train beside them in fp32. "
        "Slower; not with zero 3.",
    )
    gradient_checkpointing: bool = setting(
        False,
        CLUSTER,
        "Recompute activations in the backward pass: much less memory, about a third more time, the same gradients.",
    )
    max_failures: int = setting(
        3,
        CLUSTER,
        "How often a run continues from its last checkpoint after a worker died, before it gives up.",
        ge=0,
        le=1000,
    )

    # ----------------------------------------------------------------- records
    checkpoint_interval: int = setting(
        100, RECORDS, "Steps between checkpoints: the most work a crash can cost.", ge=1
    )
    sample_interval: int = setting(
        0, RECORDS, "Steps between sample videos, rendered during the training; 0: only at the end.", ge=0
    )
    sample_prompts: tuple[str, ...] = setting(
        (),
        RECORDS,
        "Prompts of the sample videos (repeat the option); the concept's first caption when not given.",
        option="--sample-prompt",
    )

    noise_prior: bool = setting(
        False,
        RECORDS,
        "Publish the noise prior of the first references (at most 4) beside the adapter, for videos that start from a "
        "reference's noise. Each costs 150 forwards of the model and 2 bytes per latent value. It gives back the clip, about: "
        "who may use the concept may see its references.",
    )

    @field_validator("workers")
    @classmethod
    def _workers(cls, value: int | str) -> int | str:
        text = str(value)
        low, colon, high = text.partition(":")
        if not low.isdecimal() or (colon and not high.isdecimal()):
            raise ValueError("must be a number of workers or min:max, such as 2 or 1:4")
        if int(low) < 1 or (colon and int(high) < int(low)):
            raise ValueError("must be at least 1; in min:max, max must be at least min")
        return text if colon else int(low)

    @field_validator("zero", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("sample_prompts", "generated_prompts", mode="before")
    @classmethod
    def _one_prompt(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _together(self) -> TrainConfig:
        if self.timestep_low >= self.timestep_high:
            raise ValueError(
                f"timestep_low {self.timestep_low} must be below timestep_high {self.timestep_high}"
            )
        if self.elastic and self.zero:
            raise ValueError(
                f"workers {self.workers} (elastic) needs zero 0: a checkpoint of ZeRO stage {self.zero} cannot be "
                "continued by another number of workers; give one number of workers, or zero 0"
            )
        if self.quantize != "none" and self.zero == 3:
            raise ValueError(
                f"quantize {self.quantize} does not suit zero 3, which spreads plain weights over the workers; give another "
                "zero, or quantize none"
            )
        if not self.mask_inside and not self.mask_outside:
            raise ValueError("mask_inside 0 and mask_outside 0 leave nothing to learn; set one above 0")
        if self.noise_prior and self.zero == 3:
            raise ValueError(
                "noise_prior needs the whole model in one process, and zero 3 spreads it over the workers; leave noise_prior out, "
                "or give another zero"
            )
        check_method(self)
        return self

    @property
    def generated_steps(self) -> int:
        """Number of steps, at the end, that learn from generated references, too."""
        share = self.generated_share if self.generated_references else 0.0
        return generated_steps(self.steps, share, self.appearance_steps)

    def learns_generated(self, step: int) -> bool:
        """Whether step `step` (0-based) learns from generated references, too."""
        return step >= self.steps - self.generated_steps

    @property
    def looks(self) -> tuple[str, ...]:
        """The prompts for generated references; none if there are no such references."""
        return self.generated_prompts if self.generated_references else ()

    @property
    def appearance_steps(self) -> int:
        """Number of steps, at the start, that learn only the appearance."""
        return appearance_steps(self.steps, self.appearance_share)

    def stage_of(self, step: int) -> Literal["appearance", "motion", "both"]:
        """What step `step` (0-based) learns."""
        if self.method in WITHOUT_SPATIAL_PASS:
            return "motion"
        if self.method in WITHOUT_TEMPORAL_PASS:
            return "appearance"
        if not self.appearance_steps:
            return "both"
        return "appearance" if step < self.appearance_steps else "motion"

    def expert_of(self, step: int) -> str | None:
        """The expert that learns in step `step` (0-based), of a model that has two; None: both."""
        if self.experts != "both":
            return self.experts
        if self.stage_of(step) == "appearance":
            return None
        first = 0 if self.method in WITHOUT_SPATIAL_PASS else self.appearance_steps
        return "high_noise" if step - first < (self.steps - first) * self.high_noise_share else "low_noise"

    def noise_range(self, step: int, boundary: float | None) -> tuple[float, float]:
        """The noise levels that step `step` trains on, as fractions of the schedule.

        Args:
            boundary: of a model of two experts, the level from which on the high-noise one answers (`Foundation.boundary`).
        """
        whole = self.stage_of(step) == "appearance"
        low, high = (0.0, 1.0) if whole else (self.timestep_low, self.timestep_high)
        expert = None if boundary is None else self.expert_of(step)
        if expert == "high_noise":
            low = max(low, boundary or 0.0)
        elif expert == "low_noise":
            high = min(high, boundary or 1.0)
        return low, high

    @property
    def adapter_steps(self) -> tuple[float, float] | None:
        """The part of the denoising steps in which the motion adapter acts by default; None: all."""
        return None if self.acts_until == 1 else (0.0, self.acts_until)

    @property
    def weighs_masks(self) -> bool:
        """Whether the losses inside and outside of masks have different weights."""
        return self.mask_inside != self.mask_outside

    @property
    def loading(self) -> dict[str, Any]:
        """Arguments of `load_foundation` that these settings determine."""
        return {"dtype": DTYPES[self.dtype], "quantize": self.quantize}

    @property
    def elastic(self) -> bool:
        return isinstance(self.workers, str)

    @property
    def worker_range(self) -> tuple[int, int]:
        """(fewest, most) workers."""
        if isinstance(self.workers, int):
            return self.workers, self.workers
        low, high = self.workers.split(":")
        return int(low), int(high)

    def weight_decay_for(self, clips: int) -> float:
        """The given weight decay, or the published code's: 1e-2 for one clip, 1e-4 for several."""
        if self.weight_decay is not None:
            return self.weight_decay
        return 1e-2 if clips == 1 else 1e-4

    def learning_rates(self) -> dict[str, float]:
        """Peak learning rate of each path."""
        spatial = self.spatial_learning_rate
        return {
            "spatial": self.learning_rate if spatial is None else spatial,
            "temporal": self.learning_rate,
        }


def sampled_paths(config: TrainConfig) -> tuple[LoraPath, ...]:
    """The paths whose adapters generation uses, and a version holds: both for method coupled, else the one it is about."""
    if config.method == "coupled":
        return ("spatial", "temporal")
    return ("spatial",) if config.method in WITHOUT_TEMPORAL_PASS else ("temporal",)


# Settings that may change when a run is continued. `workers` does change what is computed, because each
# worker has its own samples in every step, but a run that lost workers must be able to continue.
CHANGEABLE = {
    "workers",
    "max_failures",
    "checkpoint_interval",
    "sample_interval",
    "sample_prompts",
    "gradient_checkpointing",
}


def make_config(values: dict[str, Any]) -> TrainConfig:
    """`TrainConfig` from plain values.

    Raises:
        UserError: names the first wrong setting, the given value and what is expected.
    """
    try:
        return TrainConfig(**values)
    except ValidationError as error:
        raise InvalidInput(_sentence(error.errors()[0]), code="invalid_setting") from None


def wrong_settings(values: dict[str, Any]) -> dict[str, str]:
    """All errors that `make_config` would raise, by setting name ("": settings that conflict)."""
    try:
        TrainConfig(**values)
    except ValidationError as error:
        return {str(found["loc"][0]) if found["loc"] else "": _sentence(found) for found in error.errors()}
    return {}


def _sentence(first: Any) -> str:
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not first["loc"]:
        return f"{message}."
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        from infra.registry import similar

        near = similar(name, list(TrainConfig.model_fields))
        hint = (
            f"did you mean {' or '.join(near)}?" if near else "`motiondirector train --help` lists them all."
        )
        return f"unknown training setting {name!r}; {hint}"
    given = str(first.get("input"))
    return f"{name.replace('_', '-')} {given[:80]}: {message}."


# Settings added later. They are left out at their defaults, to keep the hashes of earlier trainings.
LATER = (
    "fps",
    "windows",
    "appearance_share",
    "appearance_frames",
    "appearance_tokens",
    "appearance_preservation",
    "caption_dropout",
    "acts_until",
    "strength",
    "spatial_lora",
    "generated_references",
    "generated_share",
    "generated_prompts",
    "noise_prior",
    "mask_inside",
    "mask_outside",
    "experts",
    "high_noise_share",
    "quantize",
)


def fixed_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that affect what is published, as JSON: an adapter's metadata records them."""
    defaults = default_settings()
    return {
        key: value
        for key, value in config.model_dump(mode="json").items()
        if (key == "workers" or key not in CHANGEABLE) and not (key in LATER and value == defaults[key])
    }


def default_settings() -> dict[str, Any]:
    """The defaults, as JSON."""
    return TrainConfig().model_dump(mode="json")
