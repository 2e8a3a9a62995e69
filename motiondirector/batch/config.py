"""The options of `motiondirector train-batch`, as one configuration class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, model_validator

from infra.setting import setting
from motiondirector.judging.config import SEEDS, MetricWeights
from motiondirector.settings import TrainingSettings

CONCEPTS = "Concepts"
LANES = "Lanes"
EVALUATION = "Evaluation"


def number_or_auto(most: int) -> BeforeValidator:
    """Reads a number from 1 to `most`, or the word auto."""

    def read(value: Any) -> Any:
        if value is None or value == "auto":
            return value
        if not str(value).isdecimal() or not 1 <= int(value) <= most:
            raise ValueError(f"expected a number from 1 to {most}, or auto")
        return int(value)

    return BeforeValidator(read)


class BatchConfig(MetricWeights):
    """How the concepts of a manifest are trained."""

    data: str | None = setting(None, CONCEPTS, "Clip set for entries that name none.")
    foundation: str | None = setting(
        None, CONCEPTS, "Model for entries that name none.", shown="the embedded sprite model"
    )
    settings: TrainingSettings = setting(
        {},
        CONCEPTS,
        "NAME=VALUE of a training setting, for entries that do not set it (repeat).",
        option="--setting",
    )
    name: str | None = setting(
        None, CONCEPTS, "The batch's name; an existing batch continues.", shown="the manifest's"
    )

    pack: Annotated[int | Literal["auto"] | None, number_or_auto(64)] = setting(
        None,
        LANES,
        "Concepts in one forward, 1 to 64, or `auto`: the best number by measurements of the device. On Ray, the first lane "
        "on each kind of device measures it, in a minute for each group of settings, and the registry keeps the result. "
        "Never more than a lane's share.",
        metavar="N|auto",
        shown="the profile's best, else 8",
    )
    lanes: Annotated[int | Literal["auto"] | None, number_or_auto(1024)] = setting(
        None,
        LANES,
        "Number of lanes, each with the model; auto: as many as the cluster has room for, as it grows and shrinks.",
        metavar="N|auto",
        shown="auto with --address, else 1: this process",
    )
    address: str | None = setting(None, LANES, "Ray cluster for the lanes (auto, host:port, ray://...).")
    cpus_per_lane: float | None = setting(
        None,
        LANES,
        "CPUs of a node that each lane on Ray takes.",
        ge=0.1,
        shown="1 beside a GPU, else 4 or what a node has",
    )
    encoder_gpus: float | None = setting(
        None,
        LANES,
        "Part of a GPU for encoding clips ahead of lanes that train on GPUs; 0: use a CPU. No lane can use this GPU "
        "until all clips are encoded.",
        ge=0.0,
        le=1.0,
        shown="0.5 if there is a free GPU that no lane needs, else 0",
    )
    profile: str | None = setting(
        None,
        LANES,
        "Measurements of the device, for estimates of time and memory: a file, or `auto` to measure this device once, in "
        "at most a minute for each group of settings.",
    )

    evaluate: bool = setting(
        True,
        EVALUATION,
        "Score each published version and keep sample videos, in parallel with the training.",
    )
    prompts: Path | None = setting(
        None,
        EVALUATION,
        "Prompts of the evaluation, as in `evaluate`; rows may name their `concept`.",
        shown="4 held-out appearances; captions, if the clips are not sprites",
    )
    seeds: int = setting(1, EVALUATION, SEEDS, ge=1)
    evaluate_steps: int | None = setting(
        None, EVALUATION, "Denoising steps of these videos. Absent: the foundation's.", ge=1
    )

    @model_validator(mode="after")
    def _lanes_on_ray(self) -> Self:
        if self.address is None and self.lane_count == 1:
            does = "uses all CPUs of the machine", "encodes on the device where it trains"
            for name, what in zip(("cpus_per_lane", "encoder_gpus"), does, strict=True):
                if (value := getattr(self, name)) is not None:
                    raise ValueError(
                        f"--{name.replace('_', '-')} {value:g}: the only lane is this process, which {what}; use the option "
                        "with lanes on Ray (--address or --lanes)"
                    )
        return self

    @property
    def members(self) -> int | None:
        """Number of members of a pack; None: chosen automatically."""
        return None if self.pack == "auto" else self.pack

    @property
    def lane_count(self) -> int | None:
        """The requested number of lanes; None: as many as there is room for."""
        if self.lanes is None:
            return None if self.address is not None else 1
        return None if self.lanes == "auto" else self.lanes

    @property
    def defaults(self) -> dict[str, Any]:
        """Default fields and settings of the manifest's entries."""
        own = {"data": self.data, "foundation": self.foundation}
        return {**self.settings, **{name: value for name, value in own.items() if value is not None}}
