"""Correcting a clip set: other captions, and clips that are taken out. Shards stay what they are; the manifest changes.

    amend(storage, {clip_id: "a fox is running"})      # another caption
    amend(storage, {clip_id: None})                    # taken out

A shard with such a clip is written again without it, or with its new caption, under the hash of its new content. Then
one compare-and-swap puts the new shards in the manifest in place of the old ones: that is the commit, and every reader
of this project sees all of the change or nothing. The old shard stays in `.staging/` for a day, for who reads by the
manifest of a moment ago, and leaves the folder of plain Parquet readers after the commit (`settle` finishes that when
this process dies in between).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datasets.clips import MANIFEST, SCHEMA, STAGING, ClipFacts, Manifest, Shard, read_facts, read_manifest
from datasets.parquet import COMMIT_ATTEMPTS, Stored, parquet_writer, settle, stored_clips
from infra.errors import InvalidInput, NotFound, Unavailable
from infra.objects import sha256_file
from infra.rows import FORBIDDEN
from infra.storage import ObjectNotFound, Storage

MAX_CAPTION = 2000  # characters; text encoders read far fewer
SHORTEST = 4  # digits of a clip's id that may stand for all


def check_caption(text: str) -> str:
    """A caption with its white space made single spaces. Raises InvalidInput ("invalid_caption")."""
    caption = " ".join(text.split())
    problem = None
    if not caption:
        problem = "it is empty"
    elif len(caption) > MAX_CAPTION:
        problem = f"it has {len(caption)} characters; at most {MAX_CAPTION}"
    elif FORBIDDEN.search(caption):
        problem = "it holds a control character or half a character"
    if problem:
        raise InvalidInput(f"the caption cannot be used: {problem}.", code="invalid_caption")
    return caption


def find(uri: str, given: Iterable[str]) -> list[ClipFacts]:
    """The clips of ids, or of their first digits, in that order, each once.

    Raises:
        NotFound: no set there, or no clip or several of such an id.
    """
    every = [clip for clips in read_facts(uri).values() for clip in clips]
    found: dict[str, ClipFacts] = {}
    for text in given:
        wanted = text.strip().lower()
        matching = [clip for clip in every if clip.clip_id.startswith(wanted)]
        if len(wanted) < SHORTEST or len(matching) != 1:
            what = f"{len(matching)} clips of {uri} begin so" if matching else f"{uri} has no such clip"
            raise NotFound(
                f"clip {text[:64]!r}: {what}; expected {SHORTEST} or more digits of one id that "
                f"`motiondirector clips list {uri}` shows.",
                code="clip_not_found",
            )
        found[matching[0].clip_id] = matching[0]
    return list(found.values())


def amend(storage: Storage, changes: Mapping[str, str | None]) -> list[Stored]:
    """Give clips other captions, or (None) take them out; all of it or, if this raises or dies, nothing.

    Args:
        changes: by whole clip_id.

    Returns:
        The clips as they were before.

    Raises:
        NotFound: a clip that is not in the set.
        InvalidInput: a caption that cannot be used.
        Unavailable: 50 others committed first.
    """
    wanted = {name: None if text is None else check_caption(text) for name, text in changes.items()}
    for _ in range(COMMIT_ATTEMPTS):
        info = storage.head(MANIFEST)
        manifest = read_manifest(storage) if info else None
        before = [clip for clip in stored_clips(storage, manifest) if clip.clip_id in wanted]
        absent = wanted.keys() - {clip.clip_id for clip in before}
        if manifest is None or info is None or absent:
            raise NotFound(
                f"{storage.uri} has no clip {min(absent, default='')[:12]}; `motiondirector clips list` shows what it has.",
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
        f"{storage.uri} is being written by others all the time ({COMMIT_ATTEMPTS} attempts); try again later.",
        code="busy",
    )


def _rewritten(
    storage: Storage, shard: Shard, wanted: Mapping[str, str | None], folder: Path
) -> Shard | None:
    """The shard with the changes, staged; itself where nothing of it changes, None where nothing is left.

    A row group at a time is in memory.
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
            f"{storage.uri}/{shard.key} is missing though the manifest lists it; restore it or ingest into a new folder.",
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
                table = _amended(source.read_row_group(number).cast(SCHEMA), wanted)
                for name in table["concept"].to_pylist():
                    counts[name] = counts.get(name, 0) + 1
                if table.num_rows:
                    writer.write_table(table, row_group_size=table.num_rows)
    # for who has read the manifest that lists it, when it has left its place
    storage.put_file(f"{STAGING}/{shard.key}", old)
    if not counts:
        return None
    made = Shard(sha256_file(new), new.stat().st_size, counts)
    storage.put_file(f"{STAGING}/{made.key}", new)
    return made


def _amended(table: pa.Table, wanted: Mapping[str, str | None]) -> pa.Table:
    """The rows that stay, with their captions."""
    out = pa.array([name for name, text in wanted.items() if text is None], pa.string())
    table = table.filter(pc.invert(pc.is_in(table["clip_id"], value_set=out)))
    ids, captions = table["clip_id"].to_pylist(), table["caption"].to_pylist()
    told = [wanted.get(name) or caption for name, caption in zip(ids, captions, strict=True)]
    place = table.schema.get_field_index("caption")
    return table.set_column(place, SCHEMA.field("caption"), pa.array(told, pa.string()))
