"""Describes the clips that a concept is learned from. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Protocol


class DescribedClip(Protocol):
    """A training clip's description: `datasets.clip_sets.parts.Part`, `datasets.clip_sets.latents.CachedClip` or a `Clip`."""

    @property
    def sha256(self) -> str: ...
    @property
    def caption(self) -> str: ...


def data_sha256(clips: Sequence[DescribedClip]) -> str:
    """One hash over all clips in order: content, caption, frames unless they are the first ones, and mask if there is one."""
    content = []
    for clip in clips:
        frames, mask = getattr(clip, "frames_id", ""), getattr(clip, "mask_id", "")
        content.append(
            [clip.sha256, clip.caption, *([frames] if frames else []), *([{"mask": mask}] if mask else [])]
        )
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
