"""A trained concept becomes a version in the registry, with all that is known about it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from infra.registry import Registry, Version
from training.adapters import PathTensors, describe, write_adapters
from training.batch.work import Work

if TYPE_CHECKING:
    from datasets.latents import CachedClip
    from models.foundation import Foundation


def publish_work(
    registry: Registry,
    work: Work,
    run: str,
    clips: Sequence[CachedClip],
    foundation: Foundation,
    tensors: PathTensors,
    *,
    steps: int,
    metrics: Mapping[str, float],
    before: Callable[[], Any] = lambda: None,
) -> Version:
    """The adapter file and the settings, published once under the name `run`, whoever else tries.

    Args:
        before: called when all is written but the version: the last moment to find that it is another's.

    Raises:
        UserError: an adapter that its foundation cannot read back, a storage that is away (Unavailable).
    """
    metadata = describe(work.config, work.concept, clips, steps=steps)
    with tempfile.TemporaryDirectory(prefix="motiondirector-adapter-") as temporary:
        folder = Path(temporary)
        written = write_adapters(folder, foundation, tensors, metadata)
        (folder / "config.yaml").write_text(settings_file(work))
        before()
        return registry.publish(
            work.name,
            folder,
            metadata={
                **metadata,
                "rank": max(adapter.rank for adapter in written.values()),
                "foundation": foundation.name,
                "foundation_fingerprint": foundation.fingerprint,
                "run": run,
            },
            metrics=dict(metrics),
            once=run,
        )


def settings_file(work: Work) -> str:
    """config.yaml of a version: `motiondirector train --config` trains the same again."""
    told: dict[str, Any] = {"concept": work.concept, "data": work.data, "foundation": work.foundation}
    if work.name != work.concept:
        told["publish_as"] = work.name
    return yaml.safe_dump(
        {**told, **work.config.model_dump(mode="json")}, sort_keys=False, allow_unicode=True
    )
