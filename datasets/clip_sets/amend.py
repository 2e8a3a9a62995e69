"""Corrects a clip set: changes captions and removes clips. Shards are immutable; the manifest changes.

    amend(storage, {clip_id: "a fox is running"})      # another caption
    amend(storage, {clip_id: None})                    # removed

A shard with an affected clip is rewritten without it, or with its new caption, under the hash of its
new content. One compare-and-swap then replaces the old shards in the manifest. This is the commit:
readers of this project see the whole change or nothing. The old shard stays in `.staging/` for a day,
for readers that still use the previous manifest. After the commit it leaves the folder of plain Parquet
readers; `settle` finishes that if this process dies in between.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datasets.clip_sets.clips import (
    MANIFEST,
    SCHEMA,
    STAGING,
    ClipFacts,
    Manifest,
    Shard,
    complete,
    read_facts,
    read_manifest,
)
from datasets.clip_sets.parquet import COMMIT_ATTEMPTS, Stored, parquet_writer, settle, stored_clips
from infra.errors import InvalidInput, NotFound, Unavailable
from infra.rows import FORBIDDEN
from infra.storage import ObjectNotFound, Storage
from infra.storage.objects import sha256_file

MAX_CAPTION = 2000  # characters; text encoders read far fewer
SHORTEST = 4  # minimum number of digits that identify a clip


def check_caption(text: str) -> str:
    """A caption with normalized white space. Raises InvalidInput ("invalid_caption")."""
    caption = " ".join(text.split())
    problem = None
    if not caption:
        problem = "it is empty"
    elif len(caption) > MAX_CAPTION:
        problem = f"it has {len(caption)} characters, at most {MAX_CAPTION} are allowed"
    elif FORBIDDEN.search(caption):
        problem = "it contains a control character or an incomplete Unicode character"
    if problem:
        raise InvalidInput(f"the caption cannot be used: {problem}.", code="invalid_caption")
    return caption


def find(uri: str, given: Iterable[str]) -> list[ClipFacts]:
    """The clips with these ids or id prefixes, in order, without duplicates.

    Raises:
        NotFound: no set there, or an id that matches no clip or several.
    """
    every = [clip for clips in read_facts(uri).values() for clip in clips]
    found: dict[str, ClipFacts] = {}
    for text in given:
        wanted = text.strip().lower()
        matching = [clip for clip in every if clip.clip_id.startswith(wanted)]
        if len(wanted) < SHORTEST or len(matching) != 1:
            problem = f"it fits {len(matching)} clips of {uri}" if matching else f"{uri} has no such clip"
            raise NotFound(
                f"clip {text[:64]!r}: {problem}; expected at least {SHORTEST} digits of one id that "
                f"`motiondirector clips list {uri}` shows.",
                code="clip_not_found",
            )
        found[matching[0].clip_id] = matching[0]
    return list(found.values())


def amend(storage: Storage, changes: Mapping[str, str | None]) -> list[Stored]:
    """Change captions of clips or remove clips (None); if this raises or dies, nothing changes.

    Args:
        changes: by complete clip_id.

    Returns:
        The clips as they were before.

    Raises:
        NotFound: a clip that is not in the set.
        InvalidInput: an invalid caption.
        Unavailable: other processes committed first, 50 times.
    """
    wanted = {name: None if text is None else check_caption(text) for name, text in changes.items()}
    for _ in range(COMMIT_ATTEMPTS):
        info = storage.head(MANIFEST)
        manifest = read_manifest(storage) if info else None
        before = [clip for clip in stored_clips(storage, manifest) if clip.clip_id in wanted]
        absent = wanted.keys() - {clip.clip_id for clip in before}
        if manifest is None or info is None or absent:
            raise NotFound(
                f"{storage.uri} has no clip {min(absent, default='')[:12]}; `motiondirector clips list` lists its clips.",
                code="clip_not_found",
            )
        if all(wanted[clip.clip_id] == clip.caption for clip in before):
            return before
        with tempfile.TemporaryDirectory(prefix="motiondirector-clips-") as folder:
            shards: list[Shard] = []
            retired: list[str] = []
            for shard in manifest.shards:
                kept = _rewritten(storage, shard, wanted, Path(folder))
                if kept is not shard:
                    retired.append(shard.sha256)
                if kept is not None:
                    shards.append(kept)
        left = [sha256 for sha256 in manifest.retired if storage.exists(Shard(sha256, 0, {}).key)]
        present = {shard.sha256 for shard in shards}
        gone = tuple(sha256 for sha256 in (*left, *retired) if sha256 not in present)
        committed = storage.replace_if(MANIFEST, Manifest(tuple(shards), gone).encode(), info.etag)
        if committed or read_manifest(storage) == Manifest(tuple(shards), gone):
            settle(storage)
            return before
    raise Unavailable(
        f"{storage.uri}: other processes changed it during all {COMMIT_ATTEMPTS} attempts; try again later.",
        code="busy",
    )


def _rewritten(
    storage: Storage, shard: Shard, wanted: Mapping[str, str | None], folder: Path
) -> Shard | None:
    """The changed shard, staged; the same object if nothing changes, None if no clip is left.

    Keeps one row group in memory at a time.
    """
    old = folder / shard.key
    for key in (shard.key, f"{STAGING}/{shard.key}", shard.key):
        try:
            storage.get_file(key, old)
            break
        except ObjectNotFound:
            continue
    else:
        raise NotFound(
            f"{storage.uri}/{shard.key} is missing, although the manifest lists it; restore it or ingest into a new folder.",
            code="invalid_clip_set",
        )
    with pq.ParquetFile(old) as source:
        ids = set(source.read(columns=["clip_id"])["clip_id"].to_pylist())
        if ids.isdisjoint(wanted):
            return shard
        counts: dict[str, int] = {}
        new = folder / "new.parquet"
        with parquet_writer(new) as writer:
            for number in range(source.num_row_groups):
                table = _amended(complete(source.read_row_group(number)), wanted)
                for name in table["concept"].to_pylist():
                    counts[name] = counts.get(name, 0) + 1
                if table.num_rows:
                    writer.write_table(table, row_group_size=table.num_rows)
    # for readers of the previous manifest, once the shard has left its place
    storage.put_file(f"{STAGING}/{shard.key}", old)
    if not counts:
        return None
    made = Shard(sha256_file(new), new.stat().st_size, counts)
    storage.put_file(f"{STAGING}/{made.key}", new)
    return made


def _amended(table: pa.Table, wanted: Mapping[str, str | None]) -> pa.Table:
    """The remaining rows, with their captions."""
    out = pa.array([name for name, text in wanted.items() if text is None], pa.string())
    table = table.filter(pc.invert(pc.is_in(table["clip_id"], value_set=out)))
    ids, captions = table["clip_id"].to_pylist(), table["caption"].to_pylist()
    amended = [wanted.get(name) or caption for name, caption in zip(ids, captions, strict=True)]
    place = table.schema.get_field_index("caption")
    return table.set_column(place, SCHEMA.field("caption"), pa.array(amended, pa.string()))
