"""A published version with everything needed to judge it: its clips, its foundation, its training settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.errors import InvalidInput, UserError
from motiondirector.judging.contenders import (
    OURS,
    Origin,
    bucket_of,
    other_data,
    pace_of_origin,
    read_version_adapters,
)

if TYPE_CHECKING:
    from datasets.clip_sets.clips import Clip
    from datasets.clip_sets.parts import Pace
    from evaluation.evaluate import Contender
    from infra.registry import Registry, Version
    from models.foundations.base import Foundation
    from models.sizes import Bucket


@dataclass(frozen=True)
class Subject:
    """The version to judge; `Subject.of` reads one. `ours` is the version as a contender."""

    version: Version
    origin: Origin
    source: str  # URI of the clips
    clips: Sequence[Clip]
    foundation: Foundation
    ours: Contender
    bucket: Bucket
    pace: Pace

    @classmethod
    def of(
        cls,
        registry: Registry,
        version: Version,
        origin: Origin,
        load: Callable[[str | None], Foundation],
        data: str | None = None,
    ) -> Subject:
        """Read the clips, load the foundation, and check the adapters against it.

        Args:
            origin: of the version.
            load: loads the foundation that the origin names.
            data: a clip set to use instead of the training's.

        Raises:
            InvalidInput: the version holds no motion.
            UserError: the clips are gone or unknown, or the foundation cannot be loaded or does not suit.
        """
        from datasets.clip_sets.clips import read_clips
        from evaluation.evaluate import Contender
        from models.adapters.versions import gives, own_steps

        if "motion" not in gives(version):
            raise InvalidInput(
                f"{version.ref} gives an appearance and no motion, and an evaluation measures motions; name a concept that was "
                "trained with another method than appearance.",
                code="no_motion",
            )
        source = data or origin.data
        if source is None:
            raise UserError(
                f"{version.ref} does not record its training clips (it has no config.yaml); give the clip set with --data to "
                "`motiondirector evaluate`."
            )
        clips = read_clips(source, origin.concept)
        foundation = load(origin.foundation)
        ours = Contender(
            OURS,
            version.ref,
            read_version_adapters(registry, version, foundation),
            own_steps(version, "temporal"),
        )
        bucket, pace = bucket_of(origin, foundation), pace_of_origin(origin, foundation)
        return cls(version, origin, source, clips, foundation, ours, bucket, pace)

    def facts(self, notes: Sequence[str] = ()) -> dict[str, Any]:
        """The version's fields of report.json, with these notes and one if the clips differ from the training's."""
        from datasets.clip_sets.parts import all_parts
        from training.described import data_sha256

        parts = all_parts(self.clips, self.bucket, self.pace)
        return {
            "concept": self.version.ref,
            "adapter_sha256": self.version.adapter_sha256,
            "data": self.source,
            "data_sha256": data_sha256(parts),
            "notes": [*other_data(self.version, self.source, parts), *notes],
        }
