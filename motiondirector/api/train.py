"""Trains a motion or an appearance from a concept's clips, or an image, and publishes it: `motiondirector train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import Conflict, UserError
from infra.registry import DEFAULT_REGISTRY
from training.config import TrainConfig

if TYPE_CHECKING:
    from infra.registry import Version
    from infra.storage import Storage
    from training.runs.job import Watcher

CLIPS = "clips"  # folder of a run: the clip set of its image


def run_of(concept: str, publish_as: str | None = None) -> str:
    """The default folder of a run."""
    return f"runs/{publish_as or concept}"


def train(
    concept: str,
    data: str | None = None,
    config: TrainConfig | None = None,
    *,
    image: str | Path | None = None,
    caption: str | None = None,
    flip: bool = False,
    foundation: str | None = None,
    registry: str = DEFAULT_REGISTRY,
    publish_as: str | None = None,
    run_dir: str | None = None,
    address: str | None = None,
    watcher: Watcher | None = None,
) -> Version:
    """Teach a model the motion of a concept's clips, or the appearance of an image, and publish it.

    Called again with the same run, it continues from the last checkpoint; a finished run returns its version.

    Args:
        concept: a name in the clip set; of an image, any name.
        data: the clip set: folder or s3:// URI. None with an image.
        config: the settings; others come from the foundation's recommendation.
        image: a file whose appearance is learned (method appearance), in place of clips.
        caption: what the image shows; required with one.
        flip: also learn the mirrored image.
        foundation: model folder or hub id; None: the embedded one.
        registry: folder or s3:// URI.
        publish_as: another name to publish under, to compare methods on the same clips.
        run_dir: folder or s3:// prefix of the run; None: runs/CONCEPT, or runs/PUBLISH_AS.
        address: Ray cluster to train on; None starts one here until the training ends.
        watcher: receives progress callbacks.

    Returns:
        The published version: its `ref`, such as orbit@1, files and metrics.

    Raises:
        UserError: no such clips, an image that cannot be used, settings that do not suit the foundation or the run, or no
            room on the cluster.
    """
    from training.runs.job import Job
    from training.runs.job import Watcher as Silent
    from training.runs.run import run_job

    run_dir, watcher = run_dir or run_of(concept, publish_as), watcher or Silent()
    given = {} if config is None else config.model_dump(exclude_unset=True)
    check_source(data, image, caption, flip, given.get("method"))
    if image is not None:
        given["method"] = "appearance"
        data = stored_image(image, concept, caption or "", flip, run_dir, foundation, given, watcher)
    assert data is not None
    return run_job(Job(concept, data, run_dir, registry, foundation, address, publish_as), given, watcher)


def check_source(
    data: str | None, image: str | Path | None, caption: str | None, flip: bool, method: str | None
) -> None:
    """Raise UserError unless either clips or an image with its caption are given."""
    if image is None:
        if data is None:
            raise UserError(
                "neither --data nor --image is given; give a clip set to learn from, or an image."
            )
        if caption is not None or flip:
            option = "--flip" if caption is None else "--caption"
            raise UserError(
                f"{option} is for an image; give --image FILE, or leave it out (clips have captions)."
            )
        return
    if data is not None:
        raise UserError(
            "--data and --image are both given; give a clip set to learn from, or an image, and leave the other out."
        )
    if not (caption or "").strip():
        raise UserError(
            '--caption TEXT is missing; an image needs one that says what it shows, such as "a red car".',
            code="caption_missing",
        )
    if method not in (None, "appearance"):
        raise UserError(
            f"--method {method} learns a motion, and an image has none; leave --method out, or give a clip set with --data."
        )


def stored_image(
    image: str | Path,
    concept: str,
    caption: str,
    flip: bool,
    run_dir: str,
    foundation: str | None,
    given: Mapping[str, Any],
    watcher: Watcher,
) -> str:
    """Store an image as a clip set in the run, of the size that the run trains at. Returns the set's URI.

    Raises UserError, with nothing stored: an image, a caption or settings that cannot be used, or another run.
    """
    from datasets.ingest.image import store_image
    from infra.paths import as_written, expanded
    from infra.registry import check_concept_name
    from infra.storage import open_storage
    from models.locating import foundation_sizes, locate, read_recommended
    from training.config import make_config
    from training.recommended import resolve
    from training.runs.inputs import bucket_of, pace_of
    from training.runs.job import part

    check_concept_name(concept)
    make_config(dict(given))  # report wrong settings first
    run = open_storage(run_dir)
    target = run.sub(CLIPS)
    with part(watcher, "reading the image"):
        sizes = foundation_sizes(foundation)
        config = resolve(dict(given), read_recommended(locate(foundation)), 2 if flip else 1)
        check_run(run, target)
        notes = store_image(
            as_written(expanded(image)),
            target,
            concept,
            caption,
            bucket_of(config, sizes),
            pace_of(config, sizes).fps or sizes.defaults.fps,
            flip=flip,
        )
    for note in notes:
        watcher.note(note)
    return target.uri


def check_run(run: Storage, clips: Storage) -> None:
    """Raise Conflict if the folder holds a run on other clips than those of its image."""
    from infra.storage import ObjectNotFound
    from training.runs.record import read_settings

    try:
        data = read_settings(run).get("data")
    except ObjectNotFound:
        return
    if data != clips.uri:
        raise Conflict(
            f"{run.uri} holds a run on {data}, not on an image; give another --run-dir.", code="other_run"
        )
