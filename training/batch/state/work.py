"""A work: one concept with everything resolved, and the hash that tells whether it was done before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from infra.errors import InvalidInput
from infra.storage.stored import ConceptName, Sha256
from training.config import TrainConfig, fixed_settings
from training.loop.group import GroupKey, group_key

if TYPE_CHECKING:
    from datasets.clip_sets.parts import Pace


class NotForLanes(InvalidInput):
    """Settings of a concept that this kind of lane cannot train."""

    default_code = "not_in_a_lane"


@dataclass(frozen=True)
class Work:
    """All that a lane needs to train and publish a concept."""

    name: ConceptName  # published under this name; unique in a batch
    concept: ConceptName
    data: str  # absolute URI of the clip set
    data_sha256: Sha256  # over its clips and captions (training.described.data_sha256)
    clips: int  # number of training clips; each window of a long clip counts
    foundation: str | None  # path (absolute) or id; None: the embedded one
    fingerprint: str  # of the foundation
    config: TrainConfig = field(hash=False)  # resolved: its size is set
    priority: int = 0
    fps: float = 0.0  # frame rate of the training clips; 0: each clip's frame rate

    def check_lane(self, workers: int | None) -> None:
        """Raises NotForLanes if a lane with this number of workers (None: any number) cannot train it."""
        fewest, zero = self.config.worker_range[0], self.config.zero
        if zero not in (0, 3):
            raise NotForLanes(
                f"concept {self.name} asks for zero {zero}, but lanes train at zero 0 or 3 (an adapter's optimizer is too small "
                "for stages 1 and 2 to save memory); set zero 0, or 3 if the model does not fit one device."
            )
        if zero and fewest == 1:
            raise NotForLanes(
                f"concept {self.name} asks for zero {zero} with workers 1, but one worker cannot shard the model; set zero 0, or "
                "workers to 2 or more."
            )
        if workers is not None and workers != fewest:
            raise NotForLanes(
                f"concept {self.name} asks for workers {self.config.workers}, but this lane has {workers}; lanes with several "
                "workers need Ray: use --address, or --lanes with more than 1, or set workers 1."
            )

    @property
    def sha256(self) -> str:
        """Works with equal hashes train the same adapter and publish it under the same name."""
        return work_sha256(
            self.name, self.concept, self.fingerprint, self.data_sha256, fixed_settings(self.config)
        )

    @property
    def pace(self) -> Pace:
        """The frame rate and the number of windows for longer and faster clips."""
        from datasets.clip_sets.parts import Pace

        return Pace(self.fps, self.config.windows)

    @property
    def key(self) -> GroupKey:
        """The group of works that it can share a pack with."""
        return group_key(self.fingerprint, self.config)

    def settings_file(self) -> str:
        """config.yaml of its version: `motiondirector train --config` trains the same again."""
        content: dict[str, Any] = {
            "concept": self.concept,
            "data": self.data,
            "foundation": self.foundation,
        }
        if self.name != self.concept:
            content["publish_as"] = self.name
        content |= self.config.model_dump(mode="json")
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)

    def asdict(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "config": self.config.model_dump(mode="json")}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Work:
        """From the result of `asdict`. Settings that were added later get their defaults."""
        return cls(**{**fields, "config": TrainConfig(**fields["config"])})


def work_sha256(
    name: str, concept: str, fingerprint: str, data_sha256: str, settings: Mapping[str, Any]
) -> str:
    """The hash of a work, from the metadata of a published version."""
    complete = fixed_settings(TrainConfig(**settings))
    content = json.dumps([name, concept, fingerprint, data_sha256, complete], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
