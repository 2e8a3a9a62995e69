"""A published version with all that it is judged by: its clips, its foundation, how it was trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.errors import UserError
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
    """What `Subject.of` found. The first contender is the version itself."""

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
            load: gives the foundation that the origin names.
            data: another clip set than that of the training.

        Raises:
            UserError: clips that are gone or unknown, a foundation that cannot be loaded or does not suit.
        """
        from datasets.clip_sets.clips import read_clips
        from evaluation.evaluate import Contender
        from models.adapters.versions import own_steps

        source = data or origin.data
        if source is None:
            raise UserError(
                f"{version.ref} does not say what it was trained on (it has no config.yaml); give --data, the clip set, to "
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
        """What report.json says of it, with these notes and one where the clips are not those of the training."""
        from datasets.clip_sets.parts import all_parts
        from training.adapters import data_sha256

        parts = all_parts(self.clips, self.bucket, self.pace)
        return {
            "concept": self.version.ref,
            "adapter_sha256": self.version.adapter_sha256,
            "data": self.source,
            "data_sha256": data_sha256(parts),
            "notes": [*other_data(self.version, self.source, parts), *notes],
        }
