"""Publishes trained adapters as a version in the registry, with their metadata: for runs and for batches."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.registry import Registry, Version
from infra.storage import Storage, open_storage
from models.sizes import Bucket
from training.adapters import PathTensors, describe, write_adapters
from training.config import TrainConfig
from training.loop.finished import finished
from training.runs.record import CONFIG, RESULT, RunRecord

if TYPE_CHECKING:
    from torch import Tensor

    from datasets.clip_sets.latents import CachedClip
    from models.foundations.base import Foundation
    from training.loop.checkpoint import MemberState
    from training.runs.job import Job


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
    """Publish the adapters and the other files of a version. Concurrent calls with the same `once` publish it once.

    Args:
        metadata: as returned by `describe`.
        run: id of the training.
        once: key that may publish only once; defaults to `run`.
        complete: writes the other files into the version's folder. If it raises, nothing is published.

    Raises:
        UserError: the foundation cannot read the adapter back, or the storage is not available (Unavailable).
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


def publish_noise(
    folder: Path,
    config: TrainConfig,
    foundation: Foundation,
    clips: Sequence[CachedClip],
    data: str,
    invert: Callable[[CachedClip], Tensor] | None = None,
) -> None:
    """Write the noise prior of the first clips into a version's folder, if the settings ask for one.

    Args:
        config: resolved: frames, height and width are set.
        data: URI of the clip set, which caches inverted noise.
        invert: inverts a clip elsewhere; by default this foundation does.

    Raises InvalidInput if the noise is not finite.
    """
    if not config.noise_prior:
        return
    from datasets.clip_sets.inverted import inverted_noise
    from datasets.clip_sets.latents import LatentCache
    from models.adapters.noise_prior import REFERENCES, write_noise

    size = (config.frames, config.height, config.width)
    assert None not in size, "resolve the size first"
    bucket, cache = Bucket(*size), LatentCache(open_storage(data))  # type: ignore[arg-type]
    references = clips[:REFERENCES]
    noises = [inverted_noise(clip, foundation, bucket, cache, invert) for clip in references]
    write_noise(folder, foundation, bucket, noises)


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
    invert: Callable[[CachedClip], Tensor],
) -> Version:
    """Publish a run's adapters with its settings and last samples, and record the version in the run's folder.

    Args:
        invert: inverts a reference for a noise prior.
    """

    def complete(folder: Path) -> None:
        publish_noise(folder, config, foundation, clips, job.data, invert)
        for key in (*samples, CONFIG):
            run.get_file(key, folder / key)
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            run.put_file(f"adapter/{file.relative_to(folder).as_posix()}", file)

    version = publish(
        registry,
        job.name,
        foundation,
        finished(config, state.adapter),
        describe(config, job.concept, clips, steps=state.step),
        run=record.id,
        once=f"{record.id}-{state.step}",  # a run that was extended publishes again
        metrics=state.position["metrics"],
        complete=complete,
    )
    run.put(RESULT, json.dumps({"registry": registry.uri, "version": version.ref}, indent=2).encode())
    return version
