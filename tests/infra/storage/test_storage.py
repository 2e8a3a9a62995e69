"""Storage behaves the same in a folder and in S3."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from infra.errors import UserError
from infra.storage import ObjectNotFound, open_storage


def test_what_was_put_is_got(storage):
    storage.put("a/b.bin", b"one")
    assert storage.get("a/b.bin") == b"one"
    storage.put("a/b.bin", b"two")
    assert storage.get("a/b.bin") == b"two"


def test_an_absent_key_is_not_found(storage):
    storage.put("a/b", b"1")
    for key in ("nothing", "a", "a/b/c", "a/c"):
        with pytest.raises(ObjectNotFound) as caught:
            storage.get(key)
        assert caught.value.code == "not_found"
        assert storage.head(key) is None
        assert not storage.exists(key)
        storage.delete(key)
    assert storage.get("a/b") == b"1"


def test_files_go_up_and_come_down(storage, tmp_path):
    content = bytes(range(256)) * 150_000  # 38 MB: several parts on S3
    source = tmp_path / "source"
    source.write_bytes(content)
    storage.put_file("deep/er/file", source)
    storage.get_file("deep/er/file", tmp_path / "new" / "folder" / "target")
    assert (tmp_path / "new" / "folder" / "target").read_bytes() == content
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["target"]


def test_getting_an_absent_file_leaves_nothing(storage, tmp_path):
    with pytest.raises(ObjectNotFound):
        storage.get_file("nothing", tmp_path / "out" / "target")
    assert not list(tmp_path.glob("out/*"))


def test_head_tells_size_and_a_new_etag_at_each_change(storage):
    storage.put("key", b"12345")
    first = storage.head("key")
    assert (first.key, first.size) == ("key", 5)
    assert first.modified.tzinfo is UTC
    assert abs(datetime.now(UTC) - first.modified) < timedelta(minutes=5)
    assert next(storage.list()).modified == first.modified
    storage.put("key", b"54321")
    assert storage.head("key").etag != first.etag


def test_listing_is_by_string_prefix_in_byte_order(storage):
    keys = ["a-b/c", "a/b", "a/c/d", "ab", "b/ä", "b/z"]
    for key in keys:
        storage.put(key, key.encode())
    assert [info.key for info in storage.list()] == sorted(keys, key=str.encode)
    assert [info.key for info in storage.list("a/")] == ["a/b", "a/c/d"]
    assert [info.key for info in storage.list("a/c")] == ["a/c/d"]
    assert [info.key for info in storage.list("nothing/")] == []
    assert {info.size for info in storage.list("b/")} == {3, 4}


def test_a_sub_storage_is_the_same_objects(storage):
    storage.put("x/y/z", b"1")
    below = storage.sub("x/y/")
    assert below.get("z") == b"1"
    assert [info.key for info in below.list()] == ["z"]
    below.sub("w").put("v", b"2")
    assert storage.get("x/y/w/v") == b"2"
    assert storage.sub("") is storage


def test_put_if_absent_has_exactly_one_winner(storage):
    for key in ("race1", "race2", "race3", "race4", "race5"):
        writers = [partial(storage.put_if_absent, key, b"%d" % number) for number in range(8)]
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda write: write(), writers))
        assert won.count(True) == 1
        assert storage.get(key) == b"%d" % won.index(True)


def test_compare_and_swap_loses_no_update(storage):
    assert storage.replace_if("count", b"0", None)
    assert not storage.replace_if("count", b"1", None)
    stale = storage.head("count").etag

    def increment(_):
        while True:
            # etag first: when the content is newer than the etag the swap is refused
            etag = storage.head("count").etag
            value = int(storage.get("count"))
            if storage.replace_if("count", b"%d" % (value + 1), etag):
                return

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(increment, range(18)))
    assert storage.get("count") == b"18"
    assert not storage.replace_if("count", b"x", stale)
    assert not storage.replace_if("absent", b"x", stale)


def test_a_storage_travels_by_its_uri(storage):
    storage.put("key", b"1")
    copy = pickle.loads(pickle.dumps(storage.sub("deep")))
    assert copy == storage.sub("deep")
    assert b"SECRET" not in pickle.dumps(storage)
    assert pickle.loads(pickle.dumps(storage)).get("key") == b"1"


def test_arrow_sees_the_same_objects(storage):
    filesystem, base = storage.arrow()
    filesystem.create_dir(f"{base}/shards", recursive=True)
    table = pa.table({"x": [1, 2, 3]})
    parquet.write_table(table, f"{base}/shards/a.parquet", filesystem=filesystem)
    assert storage.get("shards/a.parquet")[:4] == b"PAR1"
    storage.put("shards/b.parquet", storage.get("shards/a.parquet"))
    assert parquet.read_table(f"{base}/shards/b.parquet", filesystem=filesystem) == table


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/a",
        "a//b",
        "../a",
        "a/../b",
        "./a",
        "a/",
        "a\\b",
        "a\0b",
        "a\nb",
        "x" * 10_000,
        ".tmp-a",
        "a/.lock",
    ],
)
def test_a_bad_key_is_refused(storage, key):
    for call in (storage.get, storage.head, storage.delete, lambda key: storage.put(key, b"")):
        with pytest.raises(UserError) as caught:
            call(key)
        assert caught.value.code == "invalid_key"
        assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    "uri", ["gs://x/y", "http://x/y", "s3://", "s3:///x", "s3://UPPER/x", "file://host/x", ""]
)
def test_a_bad_uri_is_refused(uri):
    with pytest.raises(UserError) as caught:
        open_storage(uri)
    assert caught.value.code == "invalid_uri"


def test_a_folder_has_three_spellings(tmp_path):
    (tmp_path / "a b").mkdir()
    open_storage(tmp_path / "a b").put("k", b"1")
    assert open_storage(str(tmp_path / "a b")).get("k") == b"1"
    assert open_storage((tmp_path / "a b").as_uri()).get("k") == b"1"
