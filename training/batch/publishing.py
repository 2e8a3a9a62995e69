"""A batch's trained concept becomes a version in the registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from infra.registry import Registry, Version
from training.adapters import PathTensors, describe
from training.batch.work import Work
from training.publish import publish

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

    def complete(folder: Path) -> None:
        (folder / "config.yaml").write_text(settings_file(work))
        before()

    return publish(
        registry,
        work.name,
        foundation,
        tensors,
        describe(work.config, work.concept, clips, steps=steps),
        run=run,
        once=run,
        metrics=metrics,
        complete=complete,
    )


def settings_file(work: Work) -> str:
    """config.yaml of a version: `motiondirector train --config` trains the same again."""
    told: dict[str, Any] = {"concept": work.concept, "data": work.data, "foundation": work.foundation}
    if work.name != work.concept:
        told["publish_as"] = work.name
    return yaml.safe_dump(
        {**told, **work.config.model_dump(mode="json")}, sort_keys=False, allow_unicode=True
    )
