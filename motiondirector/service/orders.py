"""Turns an order of the service into a work of a batch: checks its settings, cuts its clips. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets.clip_sets.clips import MANIFEST, read_facts
from datasets.clip_sets.select import Selection
from datasets.ingest.confined import CLIPS, FILES, Bounds, StrangeFile, ingest_confined
from datasets.ingest.confined_still import still_confined
from datasets.ingest.image import store_still
from infra.errors import InvalidInput
from infra.storage import Storage, open_storage
from infra.storage.base import LOCK
from models.locating import FoundationFacts
from models.sizes import Sizes
from serving.trainings.trainer import Clips, Order, Prepared
from training.batch.manifest.entries import Entry
from training.batch.manifest.resolving import settle
from training.config import TrainConfig
from training.recommended import resolve
from training.runs.inputs import bucket_of, pace_of

METHODS = {
    "motion": None
}  # the API's name of a method -> the setting's, if they differ; None: the foundation's own
# Settings that the server decides: of workers, checkpoints and samples, and those that a request has fields for.
OWN = (
    "method",
    "seed",
    "workers",
    "zero",
    "dtype",
    "quantize",
    "gradient_checkpointing",
    "max_failures",
    "checkpoint_interval",
    "sample_interval",
    "sample_prompts",
)
LARGEST = {
    "batch_size": 16,
    "gradient_accumulation": 16,
    "rank": 128,
    "windows": 64,
}  # of a tenant's training


def settings_of(order: Order) -> dict[str, Any]:
    """The training settings that an order gives. Raises InvalidInput for those that the server decides."""
    if wrong := sorted(set(order.settings) & set(OWN)):
        known = ", ".join(name for name in TrainConfig.model_fields if name not in OWN)
        raise InvalidInput(
            f"hyperparameter {wrong[0]!r} is decided by the server or by another field of the request; leave it out. "
            f"Hyperparameters: {known}.",
            code="invalid_setting",
        )
    method = METHODS.get(order.method, order.method)
    given = {} if method is None else {"method": method}
    return {**given, **order.settings, "seed": order.seed}


def config_of(order: Order, foundation: FoundationFacts, most_steps: int, most_pixels: int) -> TrainConfig:
    """The settings of an order, for one clip. Raises InvalidInput if they are impossible or more than is allowed."""
    config = resolve(settings_of(order), foundation.recommended)
    bounds = {**LARGEST, "steps": most_steps}
    for name, most in bounds.items():
        if getattr(config, name) > most:
            raise InvalidInput(
                f"{name} {getattr(config, name)}: this server trains with at most {most}; give less.",
                code="invalid_setting",
            )
    bucket = bucket_of(config, foundation.sizes)
    pixels = bucket.frames * bucket.height * bucket.width
    if pixels > most_pixels:
        raise InvalidInput(
            f"{bucket} (frames, height, width) is {pixels} pixels, but this server trains with at most {most_pixels}; give a "
            "smaller size or fewer frames.",
            code="invalid_setting",
        )
    return config


def selection_of(config: TrainConfig, sizes: Sizes) -> Selection:
    """What a training with these settings cuts out of each video."""
    bucket, pace = bucket_of(config, sizes), pace_of(config, sizes)
    return Selection(bucket.frames, bucket.height, bucket.width, fps=pace.fps or None, windows=pace.windows)


def prepare_order(
    order: Order,
    clips: Sequence[Clips],
    folder: Path,
    target: Storage,
    foundation: FoundationFacts,
    source: str | None,
    config: TrainConfig,
    beat: Callable[[], None],
    bounds: Bounds | None = None,
) -> Prepared:
    """Cut the clips of an order into `target`, and resolve its work.

    Args:
        source: the foundation's path or id, for lanes.
        config: from `config_of`.

    Raises InvalidInput: names the files that cannot be used, and why.
    """
    cut = cut_image if order.image else cut_clips
    remarked = cut(order, clips, folder, foundation, config, beat, bounds)
    store_set(folder / CLIPS, target, beat)
    entry = Entry(order.concept, target.uri, source, settings=settings_of(order))
    remarks: dict[str, list[str]] = {}
    facts = read_facts(target.uri)[order.concept]
    work = settle(entry, foundation, facts, 1, remarks)
    warnings = [*remarked, *remarks.get(work.name, ())]
    return Prepared(work.asdict(), work.config.steps, work.clips, warnings)


def cut_clips(
    order: Order,
    clips: Sequence[Clips],
    folder: Path,
    foundation: FoundationFacts,
    config: TrainConfig,
    beat: Callable[[], None],
    bounds: Bounds | None,
) -> Sequence[str]:
    """Cut the clips of an order's videos into `folder/clips`. Returns remarks. Raises InvalidInput."""
    found = ingest_confined(
        [placed(one, number, folder / FILES) for number, one in enumerate(clips)],
        selection_of(config, foundation.sizes),
        folder,
        concept=order.concept,
        caption=order.caption,
        bounds=bounds,
        beat=beat,
    )
    return found.warnings


def cut_image(
    order: Order,
    clips: Sequence[Clips],
    folder: Path,
    foundation: FoundationFacts,
    config: TrainConfig,
    beat: Callable[[], None],
    bounds: Bounds | None,
) -> Sequence[str]:
    """Make the clip of an order's image in `folder/clips`. Returns remarks. Raises InvalidInput."""
    (one,) = clips
    still = still_confined(one.path, one.name)
    beat()
    bucket, pace = bucket_of(config, foundation.sizes), pace_of(config, foundation.sizes)
    fps = pace.fps or foundation.sizes.defaults.fps
    target = open_storage(folder / CLIPS)
    return store_still(
        still, one.path, target, order.concept, order.caption or "", bucket, fps, name=one.name
    )


def placed(one: Clips, number: int, files: Path) -> StrangeFile:
    """A file, linked to a place of its own below `files`."""
    path = files / str(number) / one.path.name
    path.parent.mkdir(parents=True)
    os.link(one.path, path)
    return StrangeFile(f"{number}/{one.path.name}", one.name, one.caption, one.start)


def store_set(folder: Path, target: Storage, beat: Callable[[], None]) -> None:
    """Copy a clip set to a storage; what makes it one, its manifest, comes last."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)
    for path in sorted(paths, key=lambda path: path.name == MANIFEST):
        beat()
        target.put_file(path.relative_to(folder).as_posix(), path)
