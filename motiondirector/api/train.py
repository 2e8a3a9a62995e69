"""Trains a motion from a concept's clips and publishes it: `motiondirector train` as a function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.registry import DEFAULT_REGISTRY
from training.config import TrainConfig

if TYPE_CHECKING:
    from infra.registry import Version
    from training.runs.job import Watcher


def run_of(concept: str, publish_as: str | None = None) -> str:
    """The default folder of a run."""
    return f"runs/{publish_as or concept}"


def train(
    concept: str,
    data: str,
    config: TrainConfig | None = None,
    *,
    foundation: str | None = None,
    registry: str = DEFAULT_REGISTRY,
    publish_as: str | None = None,
    run_dir: str | None = None,
    address: str | None = None,
    watcher: Watcher | None = None,
) -> Version:
    """Teach a model the motion of a concept's clips, and publish it.

    Called again with the same run, it continues from the last checkpoint; a finished run returns its version.

    Args:
        concept: a name in the clip set.
        data: the clip set: folder or s3:// URI.
        config: the settings; others come from the foundation's recommendation.
        foundation: model folder or hub id; None: the embedded one.
        registry: folder or s3:// URI.
        publish_as: another name to publish under, to compare methods on the same clips.
        run_dir: folder or s3:// prefix of the run; None: runs/CONCEPT, or runs/PUBLISH_AS.
        address: Ray cluster to train on; None starts one here until the training ends.
        watcher: receives progress callbacks.

    Returns:
        The published version: its `ref`, such as orbit@1, files and metrics.

    Raises:
        UserError: no such clips, settings that do not suit the foundation or the run, or no room on the cluster.
    """
    from training.runs.job import Job
    from training.runs.run import run_job

    run_dir = run_dir or run_of(concept, publish_as)
    job = Job(concept, data, run_dir, registry, foundation, address, publish_as)
    given = {} if config is None else config.model_dump(exclude_unset=True)
    return run_job(job, given, watcher)
