"""Writes a clip set: immutable shards, and one manifest that lists the valid ones.

An append has three steps, and the process may die after any of them:

1. Clips already in the set are left out. The rest is split into shards (sorted by concept and clip_id,
   <= 500 MB), each written to `.staging/clips-<sha256>.parquet`. Plain Parquet readers skip names that
   begin with a dot.
2. The shards are added to the manifest by compare-and-swap. *This is the commit.* If another ingest was
   faster, start again from 1 with the new manifest. So neither loses clips, and no clip is stored
   twice.
3. The shards move to `clips-<sha256>.parquet` (a rename in a folder, a copy inside S3), where plain
   readers see them.

If killed before 2, the set is unchanged for every reader. If killed between 2 and 3, this project's
readers also look into staging and see the whole append; plain readers see the old set until a later
ingest finishes the move (`settle`). A later ingest also deletes a killed ingest's unreferenced staging
files, after a day.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.clip_sets.clips import (
    MANIFEST,
    SCHEMA,
    STAGING,
    Clip,
    Manifest,
    Shard,
    clips_to_table,
    read_manifest,
    read_shard,
)
from datasets.clip_sets.masks import mask_text
from infra.errors import StorageFull, Unavailable
from infra.storage import Storage
from infra.storage.objects import sha256_file

ROW_GROUP_BYTES = 100 << 20
SHARD_BYTES = 500 << 20
ROW_OVERHEAD = 1024  # bytes of a row besides its video, upper estimate
STALE = timedelta(days=1)
COMMIT_ATTEMPTS = 50


@dataclass(frozen=True)
class Pending:
    """A clip ready to be stored. The video's bytes are in a spool as `<clip_id>.mp4`."""

    clip: Clip
    size: int  # bytes of the mp4 and the mask

    @classmethod
    def spooled(cls, clip: Clip, spool: Storage) -> Pending:
        """Put the clip's bytes into the spool and keep the rest."""
        spool.put(f"{clip.clip_id}.mp4", clip.video)
        return cls(replace(clip, video=b""), len(clip.video) + len(mask_text(clip.mask) or ""))

    def load(self, spool: Storage) -> Clip:
        """The complete clip."""
        return replace(self.clip, video=spool.get(f"{self.clip.clip_id}.mp4")).check()


def grouped(pending: Iterable[Pending], limit: int) -> Iterator[list[Pending]]:
    """Split into consecutive groups of at most `limit` bytes (at least one clip each)."""
    group: list[Pending] = []
    size = 0
    for item in pending:
        cost = item.size + ROW_OVERHEAD
        if group and size + cost > limit:
            yield group
            group, size = [], 0
        group.append(item)
        size += cost
    if group:
        yield group


def plan_shards(pending: Iterable[Pending]) -> list[list[Pending]]:
    """Assign clips to shards: sort by concept and clip_id, then split at SHARD_BYTES."""
    ordered = sorted(pending, key=lambda item: (item.clip.concept, item.clip.clip_id))
    return list(grouped(ordered, SHARD_BYTES))


def parquet_writer(sink: Any) -> pq.ParquetWriter:
    """A writer for SCHEMA: `video` uncompressed, since it is compressed video, the rest as zstd."""
    plain = {"video.bytes", "video.path"}
    large = {*plain, "mask"}
    columns = [path for column in SCHEMA for path in _leaf_paths(column)]
    return pq.ParquetWriter(
        sink,
        SCHEMA,
        compression={path: "NONE" if path in plain else "ZSTD" for path in columns},
        # A dictionary of whole videos is useless and large; captions and concepts repeat.
        use_dictionary=[path for path in columns if path not in large],
        # min and max of mp4 bytes would add megabytes to every footer
        write_statistics=[path for path in columns if path not in large],
    )


def _leaf_paths(column: pa.Field) -> list[str]:
    if pa.types.is_struct(column.type):
        return [f"{column.name}.{child.name}" for child in column.type]
    return [column.name]


def write_shard(group: Sequence[Pending], spool: Storage, target: Storage) -> Shard:
    """Write one shard's Parquet file into the target's staging area, one row group in memory at a time."""
    with tempfile.TemporaryDirectory(prefix="motiondirector-shard-") as folder:
        path = Path(folder) / "shard.parquet"
        try:
            with parquet_writer(path) as writer:
                for rows in grouped(group, ROW_GROUP_BYTES):
                    table = clips_to_table(item.load(spool) for item in rows)
                    writer.write_table(table, row_group_size=len(rows))
        except OSError as error:
            raise StorageFull(
                f"a shard cannot be written in {folder} ({error.strerror or error}); free space or set TMPDIR."
            ) from None
        counts: dict[str, int] = {}
        for item in group:
            counts[item.clip.concept] = counts.get(item.clip.concept, 0) + 1
        shard = Shard(sha256_file(path), path.stat().st_size, counts)
        if target.head(f"{STAGING}/{shard.key}") is None:
            target.put_file(f"{STAGING}/{shard.key}", path)
    return shard


@dataclass(frozen=True)
class Stored:
    """The set's data of a clip, without its video."""

    clip_id: str
    concept: str
    sha256: str
    caption: str


def stored_clips(
    storage: Storage, manifest: Manifest | None, concepts: Collection[str] | None = None
) -> list[Stored]:
    """The clips of a set, or of the shards with any of `concepts`; reads only the small columns."""
    columns = ["clip_id", "concept", "sha256", "caption"]
    return [
        Stored(**row)
        for shard in (manifest.shards if manifest else ())
        if concepts is None or not shard.concepts.keys().isdisjoint(concepts)
        for row in read_shard(storage, shard, columns=columns).to_pylist()
    ]


class Known:
    """Finds the stored clip that a new one repeats: same request on the same source, or same bytes."""

    def __init__(self, clips: Iterable[Stored]) -> None:
        self.by_id: dict[str, Stored] = {}
        self.by_bytes: dict[tuple[str, str], Stored] = {}
        for clip in clips:
            self.add(clip)

    def add(self, clip: Stored | Clip) -> None:
        stored = Stored(clip.clip_id, clip.concept, clip.sha256, clip.caption)
        self.by_id[clip.clip_id] = stored
        self.by_bytes[clip.concept, clip.sha256] = stored

    def twin(self, clip: Clip) -> Stored | None:
        return self.by_id.get(clip.clip_id) or self.by_bytes.get((clip.concept, clip.sha256))


WriteShards = Callable[[list[list[Pending]], Storage, Storage], list[Shard]]


def write_shards_here(groups: list[list[Pending]], spool: Storage, target: Storage) -> list[Shard]:
    """Write the shards one after another in this process (`datasets/ingest/cluster.py` has the alternative)."""
    return [write_shard(group, spool, target) for group in groups]


def append(
    storage: Storage,
    pending: Sequence[Pending],
    spool: Storage,
    *,
    write_shards: WriteShards = write_shards_here,
) -> list[Stored | None]:
    """Add clips to the set; if this raises or dies, none are added.

    Returns one entry per clip: None if it was added, else the clip that it repeats (of the set, or
    earlier in `pending`). Variants of a clip that repeats another become variants of that one.

    Raises:
        UserError: the storage refuses, or 50 other ingests committed first (Unavailable).
    """
    written: tuple[list[str], list[Shard]] = ([], [])
    for _ in range(COMMIT_ATTEMPTS):
        info = storage.head(MANIFEST)  # read first: a change in between then makes the swap fail
        manifest = read_manifest(storage) if info else None
        known = Known(stored_clips(storage, manifest, {item.clip.concept for item in pending}))
        twins: list[Stored | None] = []
        fresh: list[Pending] = []
        repeated: dict[str | None, str] = {}
        for item in pending:
            twin = known.twin(item.clip)
            twins.append(twin)
            if twin is None:
                known.add(item.clip)
                original = repeated.get(item.clip.variant_of, item.clip.variant_of)
                fresh.append(replace(item, clip=replace(item.clip, variant_of=original)))
            else:
                repeated[item.clip.clip_id] = twin.clip_id
        if not fresh:
            settle(storage)
            return twins
        names = [item.clip.clip_id for item in fresh]
        if written[0] != names:
            written = (names, write_shards(plan_shards(fresh), spool, storage))
        merged = Manifest(
            (*(manifest.shards if manifest else ()), *written[1]), manifest.retired if manifest else ()
        )
        committed = storage.replace_if(MANIFEST, merged.encode(), info.etag if info else None)
        # On S3 the reply to a successful swap may be lost; then the shards are in the manifest.
        if committed or set(written[1]) <= set(_shards(storage)):
            settle(storage)
            return twins
    raise Unavailable(
        f"{storage.uri}: other processes changed it during all {COMMIT_ATTEMPTS} attempts; try again later.",
        code="busy",
    )


def _shards(storage: Storage) -> tuple[Shard, ...]:
    manifest = read_manifest(storage)
    return manifest.shards if manifest else ()


def settle(storage: Storage) -> None:
    """Finish a killed process's moves of committed and retired shards, and delete stale staging files."""
    listed = read_manifest(storage) or Manifest()
    committed = {shard.key for shard in listed.shards}
    manifest = storage.head(MANIFEST)
    # The earlier of this machine's clock and the storage's, so that a fast clock does not make a
    # running ingest stale.
    now = min(datetime.now(UTC), manifest.modified) if manifest is not None else None
    filesystem, base = storage.arrow()
    for info in list(storage.list(f"{STAGING}/")):
        key = info.key.removeprefix(f"{STAGING}/")
        if key in committed:
            if storage.exists(key):
                storage.delete(info.key)
                continue
            try:
                filesystem.move(f"{base}/{info.key}", f"{base}/{key}")
            except OSError:
                if not storage.exists(key):  # another process moved it at the same moment
                    raise
        elif now is not None and info.modified < now - STALE:
            storage.delete(info.key)
    for sha256 in listed.retired:
        storage.delete(Shard(sha256, 0, {}).key)


def spool_here() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder for clips in progress, on the disk of TMPDIR."""
    return tempfile.TemporaryDirectory(prefix=f"motiondirector-ingest-{os.getpid()}-")
