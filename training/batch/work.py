"""A piece of work: one concept with everything resolved, and the hash that says whether it was done before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from training.config import TrainConfig, fixed_settings
from training.group import GroupKey, group_key


@dataclass(frozen=True)
class Work:
    """What a lane needs to know to train a concept and publish it."""

    name: str  # what it is published as; one of a batch
    concept: str
    data: str  # URI of the clip set, absolute
    data_sha256: str  # over its clips and captions (training.adapters.data_sha256)
    clips: int
    foundation: str | None  # path (absolute) or id; None: the embedded one
    fingerprint: str  # of the foundation
    config: TrainConfig = field(hash=False)  # resolved: its size is set
    priority: int = 0

    @property
    def sha256(self) -> str:
        """Equal hashes train the same adapter and publish it under the same name."""
        return work_sha256(
            self.name, self.concept, self.fingerprint, self.data_sha256, fixed_settings(self.config)
        )

    @property
    def key(self) -> GroupKey:
        """With whom it can share a pack."""
        return group_key(self.fingerprint, self.config)

    def asdict(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "config": self.config.model_dump(mode="json")}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Work:
        """What `asdict` gave. Settings that came later are at their defaults."""
        return cls(**{**told, "config": TrainConfig(**told["config"])})


def work_sha256(
    name: str, concept: str, fingerprint: str, data_sha256: str, settings: Mapping[str, Any]
) -> str:
    """The hash of a work, from what a published version's metadata says of it."""
    complete = fixed_settings(TrainConfig(**settings))
    told = json.dumps([name, concept, fingerprint, data_sha256, complete], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()
