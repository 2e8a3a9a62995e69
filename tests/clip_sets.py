"""Clip sets of small sliding textures."""

import tempfile

import numpy as np

from datasets.clip_sets.clips import make_clip
from datasets.clip_sets.parquet import Pending, append
from infra.storage import open_storage


def sliding_clips(concept, count=2, frames=5, side=32, caption="a texture slides"):
    rng = np.random.default_rng(0)
    clips = []
    for number in range(count):
        picture = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
        clips.append(
            make_clip(
                concept=concept,
                caption=caption and f"{caption}, number {number}",
                frames_FHWC=np.stack([np.roll(picture, 3 * i, 1) for i in range(frames)]),
                fps=8,
                source_uri=f"{concept}-{number}.mp4",
                source_sha256=f"{concept}-{number}",
            )
        )
    return clips


def write_set(uri, *clips):
    with tempfile.TemporaryDirectory() as folder:
        spool = open_storage(folder)
        append(open_storage(uri), [Pending.spooled(clip, spool) for clip in clips], spool)
    return str(uri)
