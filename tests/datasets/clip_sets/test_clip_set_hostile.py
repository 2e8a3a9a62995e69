"""A clip set that no ingest wrote: names and hashes in it become paths, so they are refused as they are read."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample_videos import moving_picture

from datasets.clip_sets.clips import MANIFEST, clips_to_table, concepts_in, make_clip, read_clips, read_facts
from datasets.clip_sets.parquet import Pending, append
from infra.errors import InvalidInput, UserError
from infra.storage import open_storage
from infra.storage.objects import sha256_file

READERS = {"clips": read_clips, "facts": read_facts}


@pytest.fixture
def uri(tmp_path):
    """A set of one clip."""
    clip = make_clip(
        concept="slide",
        caption="a texture slides",
        frames_FHWC=moving_picture(4, 32, 32, seed=1),
        fps=8,
        source_uri="1.mp4",
        source_sha256="1",
    )
    spool = open_storage(tmp_path / "spool")
    append(open_storage(tmp_path / "set"), [Pending.spooled(clip, spool)], spool)
    return tmp_path / "set"


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["shards"][0].update(sha256="../../../home/other"),
        lambda m: m["shards"][0].update(sha256="0" * 63),
        lambda m: m["shards"][0].update(size=-1),
        lambda m: m["shards"][0].update(size="12"),
        lambda m: m["shards"][0].update(concepts={"../evil": 1}),
        lambda m: m["shards"][0].update(concepts={"slide": 0}),
        lambda m: m["shards"][0].update(concepts=["slide"]),
        lambda m: m.update(shards={}),
        lambda m: m.update(schema_version="1"),
    ],
)
def test_a_manifest_that_no_ingest_wrote_is_refused(uri, change):
    manifest = json.loads((uri / MANIFEST).read_text())
    change(manifest)
    (uri / MANIFEST).write_text(json.dumps(manifest))
    for read in (read_clips, read_facts, concepts_in):
        with pytest.raises(UserError, match="is not the manifest of a clip set") as caught:
            read(uri)
        assert (type(caught.value), caught.value.code) == (InvalidInput, "invalid_clip_set")


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("sha256", "../../../../home/other"),  # would be the name of its latents
        ("sha256", None),
        ("clip_id", "../1"),
        ("concept", "../evil"),
        ("caption", None),
        ("num_frames", 0),
        ("width", -8),
    ],
)
def test_a_row_that_no_ingest_wrote_is_refused(uri, reader, column, value):
    clip = read_clips(uri)[0]
    table = clips_to_table([clip])
    at = table.schema.get_field_index(column)
    table = table.set_column(at, table.schema.field(at), pa.array([value], table.schema.field(at).type))
    shard = uri / "shard"
    pq.write_table(table, shard)
    name = sha256_file(shard)
    shard.rename(uri / f"clips-{name}.parquet")
    entry = {"sha256": name, "size": 1, "concepts": {"slide": 1}}
    (uri / MANIFEST).write_text(json.dumps({"schema_version": 1, "shards": [entry]}))
    with pytest.raises(UserError, match=rf"has a row that is not a clip \({column}: ") as caught:
        reader(uri)
    assert caught.value.code == "invalid_clip_set"
