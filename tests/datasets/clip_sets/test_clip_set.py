"""A clip set is plain Parquet to any reader, changes in one step or not at all, and loses nothing to concurrency."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from datetime import UTC, datetime, timedelta

import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from sample_videos import moving_picture

import datasets.clip_sets.parquet
from datasets.clip_sets.clips import (
    MANIFEST,
    SCHEMA,
    STAGING,
    clips_to_table,
    concepts_in,
    make_clip,
    read_clips,
    read_manifest,
    read_shard,
)
from datasets.clip_sets.parquet import Pending, append, settle
from datasets.clip_sets.select import Selection
from datasets.ingest.local import ingest
from datasets.ingest.sources import expand
from infra.errors import UserError
from infra.storage import open_storage


def clip(seed: int, concept: str = "slide", caption: str = "a texture slides", size: int = 32):
    return make_clip(
        concept=concept,
        caption=caption,
        frames_FHWC=moving_picture(4, size, size, seed=seed),
        fps=8,
        source_uri=f"{seed}.mp4",
        source_sha256=f"{seed}",
    )


@pytest.fixture
def add(tmp_path):
    """`add(uri, clips)` -> twins; the clips are spooled first."""

    def run(uri, clips):
        spool = open_storage(tmp_path / "spool")
        return append(open_storage(uri), [Pending.spooled(c, spool) for c in clips], spool)

    return run


@pytest.fixture(params=["folder", "s3"])
def uri(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path / "set")
    return f"{request.getfixturevalue('s3').uri}/set-{tmp_path.name}"


def plain_rows(uri) -> list[str]:
    """clip_ids as a plain pyarrow reader sees them."""
    filesystem, base = open_storage(uri).arrow()
    return sorted(pq.read_table(base, filesystem=filesystem, columns=["clip_id"])["clip_id"].to_pylist())


def test_what_was_stored_comes_back_and_plain_pyarrow_reads_the_same(add, uri):
    clips = [clip(1), clip(2, "turn"), clip(3, "turn", "ein Bär, 熊")]
    assert add(uri, clips) == [None, None, None]
    ordered = sorted(clips, key=lambda c: (c.concept, c.clip_id))
    assert read_clips(uri) == ordered
    assert read_clips(uri, "turn") == ordered[1:]
    assert concepts_in(uri) == {"slide": 1, "turn": 2}
    filesystem, base = open_storage(uri).arrow()
    for table in (
        pq.read_table(base, filesystem=filesystem),
        pyarrow.dataset.dataset(base, filesystem=filesystem, format="parquet").to_table(),
    ):
        assert table.schema.equals(SCHEMA)
        assert table.to_pylist() == clips_to_table(clips).to_pylist()


def test_the_file_says_its_version_and_compresses_all_but_the_video(add, tmp_path):
    add(tmp_path / "set", [clip(1), clip(2)])
    (path,) = (tmp_path / "set").glob("*.parquet")
    file = pq.ParquetFile(path)
    assert file.schema_arrow.metadata[b"motiondirector.clips"] == b"1"
    features = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert features["video"] == {"_type": "Video"}
    assert list(features) == SCHEMA.names
    group = file.metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert {name for name, column in columns.items() if column.compression == "UNCOMPRESSED"} == {
        "video.bytes",
        "video.path",
    }
    assert {column.compression for column in columns.values()} == {"UNCOMPRESSED", "ZSTD"}
    assert columns["concept"].statistics.min == "slide"


def test_shards_and_row_groups_keep_their_limits_and_concepts_prune(add, tmp_path, monkeypatch):
    clips = [clip(i, concept) for i, concept in enumerate("babacabacb")]
    cost = max(len(c.video) for c in clips) + datasets.clip_sets.parquet.ROW_OVERHEAD
    monkeypatch.setattr(datasets.clip_sets.parquet, "ROW_GROUP_BYTES", 2 * cost)
    monkeypatch.setattr(datasets.clip_sets.parquet, "SHARD_BYTES", 5 * cost)
    add(tmp_path / "set", clips)
    paths = sorted((tmp_path / "set").glob("*.parquet"))
    assert len(paths) == 2
    for path in paths:
        metadata = pq.ParquetFile(path).metadata
        assert metadata.num_rows == 5
        assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [2, 2, 1]
        concepts = pq.read_table(path)["concept"].to_pylist()
        assert concepts == sorted(concepts)
    fragments = pyarrow.dataset.dataset(tmp_path / "set").get_fragments()
    groups = [g for f in fragments for g in f.split_by_row_group(pyarrow.dataset.field("concept") == "c")]
    assert len(groups) <= 2  # of six
    assert len(read_clips(tmp_path / "set", "c")) == 2


def test_appending_twice_adds_nothing(add, uri):
    clips = [clip(1), clip(2)]
    add(uri, clips)
    before = [(info.key, info.etag) for info in open_storage(uri).list()]
    twins = add(uri, clips)
    assert [twin.clip_id for twin in twins] == [c.clip_id for c in clips]
    assert [(info.key, info.etag) for info in open_storage(uri).list()] == before
    assert add(uri, [clip(2), clip(3)])[1] is None
    assert len(read_clips(uri)) == len(plain_rows(uri)) == 3


def test_a_shard_that_moves_while_it_is_being_opened_is_read_from_its_new_place(add, uri, monkeypatch):
    add(uri, [clip(1)])
    storage = open_storage(uri)
    shard = read_manifest(storage).shards[0]
    filesystem, base = storage.arrow()
    filesystem.create_dir(f"{base}/{STAGING}", recursive=True)
    filesystem.move(f"{base}/{shard.key}", f"{base}/{STAGING}/{shard.key}")
    opened = []
    read_table = pq.read_table

    def opens_late(path, **options):
        opened.append(path)
        if STAGING in path:  # found, then settled by another ingest before its content is asked for
            filesystem.move(path, f"{base}/{shard.key}")
            raise OSError("When reading information for key: The specified key does not exist.")
        return read_table(path, **options)

    monkeypatch.setattr("datasets.clip_sets.clips.pq.read_table", opens_late)
    assert len(read_shard(storage, shard)) == 1
    assert len(opened) == 3


def test_the_same_bytes_under_another_source_are_the_same_clip(add, uri):
    add(uri, [clip(1)])
    frames = moving_picture(4, 32, 32, seed=1)
    renamed = make_clip(
        concept="slide", caption="x", frames_FHWC=frames, fps=8, source_uri="other.mp4", source_sha256="other"
    )
    assert add(uri, [renamed])[0].clip_id == clip(1).clip_id


def test_concurrent_ingests_do_not_lose_each_others_clips(uri, tmp_path):
    """Six at once, all with a clip of their own and one that all share."""
    answers, failures = {}, []
    barrier = threading.Barrier(6)

    def run(i):
        try:
            spool = open_storage(tmp_path / f"spool{i}")
            pending = [Pending.spooled(c, spool) for c in (clip(i), clip(100))]
            barrier.wait()
            answers[i] = append(open_storage(uri), pending, spool)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all(answer[0] is None for answer in answers.values())
    assert sum(answer[1] is None for answer in answers.values()) == 1
    expected = sorted(clip(i).clip_id for i in (0, 1, 2, 3, 4, 5, 100))
    assert sorted(c.clip_id for c in read_clips(uri)) == expected
    assert plain_rows(uri) == expected


def test_a_commit_whose_answer_is_lost_counts(tmp_path, monkeypatch):
    storage, spool = open_storage(tmp_path / "set"), open_storage(tmp_path / "spool")
    swap = storage.replace_if
    monkeypatch.setattr(storage, "replace_if", lambda *given: swap(*given) and False)
    assert append(storage, [Pending.spooled(clip(1), spool)], spool) == [None]
    assert plain_rows(storage.uri) == [clip(1).clip_id]


KILLED = """
    import os, signal, sys
    import datasets.clip_sets.parquet as parquet
    from datasets.ingest.local import ingest
    from datasets.clip_sets.select import Selection
    from datasets.ingest.sources import expand
    from infra.storage import open_storage

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    where, target, *videos = sys.argv[1:]
    storage = open_storage(target)
    if where == "before the commit":
        type(storage).replace_if = die
    elif where == "after the commit":
        parquet.settle = die
    elif where == "while decoding":
        import datasets.ingest.local as module
        process, calls = module.process, []
        def half(*given):
            calls.append(1)
            return die() if len(calls) == 2 else process(*given)
        module.process = half
    ingest(expand(videos), Selection(8, 64, 64, fps=6), storage, concept="more", caption="more of it")
"""


def run_killed(where, uri, videos) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLED), where, uri, *map(str, videos)]
    assert subprocess.run(command, env=os.environ, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("where", ["while decoding", "before the commit"])
def test_a_killed_ingest_leaves_the_set_as_it_was_for_every_reader(add, uri, make_video, where):
    add(uri, [clip(1)])
    before, manifest = read_clips(uri), open_storage(uri).get(MANIFEST)
    run_killed(where, uri, [make_video("a.mp4"), make_video("b.mp4", seed=1)])
    assert open_storage(uri).get(MANIFEST) == manifest
    assert read_clips(uri) == before
    assert plain_rows(uri) == [clip(1).clip_id]
    assert pyarrow_dataset_rows(uri) == 1


def pyarrow_dataset_rows(uri) -> int:
    filesystem, base = open_storage(uri).arrow()
    return pyarrow.dataset.dataset(base, filesystem=filesystem, format="parquet").count_rows()


@pytest.mark.parametrize("then", ["another clip", "the same command", "a clip that is there"])
def test_killed_between_commit_and_move_is_whole_here_and_whole_for_all_after_the_next_ingest(
    add, uri, make_video, then
):
    add(uri, [clip(1)])
    videos = [make_video("a.mp4"), make_video("b.mp4", seed=1)]
    run_killed("after the commit", uri, videos)
    assert concepts_in(uri) == {"more": 2, "slide": 1}
    assert len(read_clips(uri, "more")) == 2
    assert plain_rows(uri) == [clip(1).clip_id]  # as it was
    if then == "the same command":
        size = Selection(8, 64, 64, fps=6)
        again = ingest(
            expand(map(str, videos)), size, open_storage(uri), concept="more", caption="more of it"
        )
        assert [outcome.status for outcome in again.outcomes] == ["duplicate", "duplicate"]
    else:
        add(uri, [clip(2 if then == "another clip" else 1)])
    assert plain_rows(uri) == sorted(c.clip_id for c in read_clips(uri))
    assert len(read_clips(uri)) == (4 if then == "another clip" else 3)
    assert not list(open_storage(uri).list(f"{STAGING}/clips-"))


def test_what_killed_ingests_left_is_deleted_once_it_is_old(add, tmp_path):
    storage = open_storage(tmp_path / "set")
    add(storage.uri, [clip(1)])
    storage.put(f"{STAGING}/clips-dead.parquet", b"half a file")
    settle(storage)
    assert storage.exists(f"{STAGING}/clips-dead.parquet")  # it may be of an ingest under way
    old = (datetime.now(UTC) - timedelta(days=2)).timestamp()
    os.utime(tmp_path / "set" / STAGING / "clips-dead.parquet", (old, old))
    settle(storage)
    assert not storage.exists(f"{STAGING}/clips-dead.parquet")
    assert len(read_clips(storage.uri)) == 1


def test_readers_during_a_move_miss_nothing(add, tmp_path):
    """A shard may go from staging to its place between the look at the one and at the other."""
    uri, stop, seen = tmp_path / "set", threading.Event(), []
    add(uri, [clip(0)])

    def read():
        while not stop.is_set():
            seen.append(len(read_clips(uri)))
            time.sleep(0.001)

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(1, 12):
        add(uri, [clip(i)])
    stop.set()
    reader.join()
    assert seen == sorted(seen)
    assert seen[0] >= 1


def test_a_set_that_is_none_damaged_or_newer_is_refused_in_a_sentence(add, tmp_path):
    def refusal(concept=None):
        with pytest.raises(UserError) as told:
            read_clips(tmp_path / "set", concept)
        return told.value.code, told.value.message

    assert refusal()[0] == "clips_not_found"
    add(tmp_path / "set", [clip(1)])
    code, message = refusal("dance")
    assert code == "concept_not_found"
    assert "slide" in message
    (shard,) = (tmp_path / "set").glob("*.parquet")
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    assert refusal()[0] == "invalid_clip_set"
    at = whole.index(b"ftypisom") + 200
    shard.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert refusal()[0] == "clip_corrupt"
    shard.unlink()
    assert refusal()[0] == "invalid_clip_set"
    manifest = tmp_path / "set" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    assert "update" in refusal()[1]
    manifest.write_text("[]")
    assert refusal()[0] == "invalid_clip_set"


def test_no_more_than_a_row_group_is_in_memory_and_the_manifest_counts(add, tmp_path, monkeypatch):
    loaded = []
    original = datasets.clip_sets.parquet.clips_to_table

    def counting(clips):
        clips = list(clips)
        loaded.append(len(clips))
        return original(clips)

    cost = len(clip(0).video) + datasets.clip_sets.parquet.ROW_OVERHEAD
    monkeypatch.setattr(datasets.clip_sets.parquet, "clips_to_table", counting)
    monkeypatch.setattr(datasets.clip_sets.parquet, "ROW_GROUP_BYTES", int(2.5 * cost))
    add(tmp_path / "set", [clip(i, "abc"[i % 3]) for i in range(7)])
    assert max(loaded) <= 3
    manifest = read_manifest(open_storage(tmp_path / "set"))
    assert manifest.shards[0].concepts == {"a": 3, "b": 2, "c": 2}
    assert manifest.shards[0].size == (tmp_path / "set" / manifest.shards[0].key).stat().st_size
