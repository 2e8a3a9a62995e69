"""Trained adapters become a version in the registry, with all that is known about them: a run's and a batch's alike."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.registry import Registry, Version
from infra.storage import Storage
from training.adapters import PathTensors, describe, write_adapters
from training.config import TrainConfig, sampled_paths
from training.run_record import CONFIG, RESULT, RunRecord

if TYPE_CHECKING:
    from datasets.latents import CachedClip
    from models.foundation import Foundation
    from training.checkpoint import MemberState
    from training.job import Job


def publish(
    registry: Registry,
    name: str,
    foundation: Foundation,
    tensors: PathTensors,
    metadata: Mapping[str, Any],
    *,
    run: str,
    once: str | None = None,
    metrics: Mapping[str, float],
    complete: Callable[[Path], Any],
) -> Version:
    """The adapter files and what else belongs to the version, published once, whoever else tries.

    Args:
        metadata: as `describe` gives it.
        run: what trained it.
        once: the name under which it is published once; that of the run when not given.
        complete: puts the other files into the version's folder; an error in it keeps the version from being published.

    Raises:
        UserError: an adapter that its foundation cannot read back, a storage that is away (Unavailable).
    """
    with tempfile.TemporaryDirectory(prefix="motiondirector-adapter-") as temporary:
        folder = Path(temporary)
        written = write_adapters(folder, foundation, tensors, metadata)
        complete(folder)
        described = {
            **metadata,
            "rank": max(adapter.rank for adapter in written.values()),
            "foundation": foundation.name,
            "foundation_fingerprint": foundation.fingerprint,
            "run": run,
        }
        return registry.publish(name, folder, metadata=described, metrics=dict(metrics), once=once or run)


def publish_run(
    job: Job,
    config: TrainConfig,
    foundation: Foundation,
    clips: Sequence[CachedClip],
    run: Storage,
    registry: Registry,
    record: RunRecord,
    state: MemberState,
    samples: Sequence[str],
) -> Version:
    """What a run came to, with its settings and last samples; noted in the run."""

    def complete(folder: Path) -> None:
        for key in (*samples, CONFIG):
            run.get_file(key, folder / key)
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            run.put_file(f"adapter/{file.relative_to(folder).as_posix()}", file)

    version = publish(
        registry,
        job.name,
        foundation,
        state.adapters(sampled_paths(config)),
        describe(config, job.concept, clips, steps=state.step),
        run=record.id,
        once=f"{record.id}-{state.step}",  # a run that went on publishes again
        metrics=state.position["metrics"],
        complete=complete,
    )
    run.put(RESULT, json.dumps({"registry": registry.uri, "version": version.ref}, indent=2).encode())
    return version
