"""Makes clips of a still image: the image as every frame, and the mirrored one if asked for. Nothing is lost.

    store_image(Path("cat.jpg"), open_storage("runs/cat/clips"), "cat", "a cat", Bucket(8, 64, 64), fps=8)

The set that it is stored in belongs to the image: it holds nothing else, and the same call finds it as it is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets.clip_sets.amend import check_caption
from datasets.clip_sets.clips import MANIFEST, Clip, make_clip, read_facts
from datasets.clip_sets.parquet import Pending, append, spool_here
from datasets.clip_sets.select import cover
from datasets.video.still import Still, UnreadableImage, read_still
from infra.errors import Conflict
from infra.registry import check_concept_name
from infra.storage import Storage, open_storage
from infra.storage.objects import sha256_file
from models.sizes import Bucket


def store_image(
    file: Path,
    target: Storage,
    concept: str,
    caption: str,
    bucket: Bucket,
    fps: float,
    *,
    flip: bool = False,
) -> tuple[str, ...]:
    """Store an image as the clips of a set, unless it is there. Returns notes on what was done to it.

    Args:
        caption: what the image shows.
        bucket: size of the clips; the image is scaled to cover it and cropped in the middle, never enlarged.
        flip: adds the mirrored image as a second clip.

    Raises:
        InvalidInput: an image or a caption that cannot be used; nothing is stored.
        Conflict: the set holds another image, or this one with another caption, size or `flip`.
    """
    return store_still(read_still(file), file, target, concept, caption, bucket, fps, flip=flip)


def store_still(
    still: Still,
    file: Path,
    target: Storage,
    concept: str,
    caption: str,
    bucket: Bucket,
    fps: float,
    *,
    flip: bool = False,
    name: str | None = None,
) -> tuple[str, ...]:
    """Store an image that was read already, as `store_image` does.

    Args:
        name: stands for the file in messages and in the clips; None: its path.
    """
    check_concept_name(concept)
    caption = check_caption(caption)
    clips = image_clips(file, still, concept, caption, bucket, fps, flip=flip, name=name)
    if target.exists(MANIFEST):
        stored = {(clip.clip_id, clip.caption) for found in read_facts(target.uri).values() for clip in found}
        if stored != {(clip.clip_id, clip.caption) for clip in clips}:
            raise Conflict(
                f"{target.uri} holds another image than {file}, or this one with another caption, size or --flip; give the "
                "same ones to continue, or another --run-dir.",
                code="other_run",
            )
        return still.notes
    with spool_here() as folder:
        spool = open_storage(folder)
        append(target, [Pending.spooled(clip, spool) for clip in clips], spool)
    return still.notes


def image_clips(
    file: Path,
    still: Still,
    concept: str,
    caption: str,
    bucket: Bucket,
    fps: float,
    *,
    flip: bool = False,
    name: str | None = None,
) -> list[Clip]:
    """The clips of an image: of `bucket` frames that are all alike. A symmetric image has no second one.

    Raises UnreadableImage if the image is smaller than the bucket.
    """
    check_covers(still, bucket.height, bucket.width, name or str(file), ", or lower --height and --width")
    picture_HWC = cover(still.picture_HWC, bucket.height, bucket.width)
    mirrored_HWC = np.ascontiguousarray(picture_HWC[:, ::-1])
    both = flip and not np.array_equal(picture_HWC, mirrored_HWC)
    source = sha256_file(file)
    return [
        make_clip(
            concept=concept,
            caption=caption,
            frames_FHWC=np.repeat(one_HWC[None], bucket.frames, axis=0),
            fps=fps,
            source_uri=name or str(file.absolute()),
            source_sha256=source,
            selection={"image": str(bucket), "fps": round(fps, 6), **({"flip": True} if mirrored else {})},
            lossless=True,
        )
        for one_HWC, mirrored in [(picture_HWC, False), *([(mirrored_HWC, True)] if both else [])]
    ]


def check_covers(still: Still, height: int, width: int, name: str, otherwise: str = "") -> None:
    """Raise UnreadableImage if an image is smaller than this.

    Args:
        otherwise: what else may be done about it.
    """
    rows, columns = still.picture_HWC.shape[:2]
    if rows < height or columns < width:
        raise UnreadableImage(
            f"{name} is too small: {columns}x{rows} pixels do not cover {width}x{height}; give a larger image{otherwise}.",
            code="image_too_small",
        )
