"""Captions are corrected and clips taken out in one commit, for every reader, and no shard changes under anyone."""

import json
import os
import time

import dataset_commands as commands
import pyarrow.parquet as pq
import pytest
from clip_sets import sliding_clips, write_set

import motiondirector.commands.clips
from datasets.clip_sets.amend import amend, find
from datasets.clip_sets.clips import MANIFEST, STAGING, concepts_in, read_clips, read_manifest, read_shard
from datasets.clip_sets.parquet import Pending, append, settle
from infra.errors import UserError
from infra.storage import open_storage


@pytest.fixture(params=["folder", "s3"])
def uri(request, tmp_path):
    """A set of two shards: a has two clips, b one."""
    place = (
        tmp_path / "set"
        if request.param == "folder"
        else f"{request.getfixturevalue('s3').uri}/{tmp_path.name}"
    )
    write_set(place, *sliding_clips("a"), *sliding_clips("b", count=1))
    return write_set(place, *sliding_clips("c", count=1))


def captions(uri):
    return {clip.clip_id: clip.caption for clip in read_clips(uri)}


def shards(uri):
    """What plain Parquet readers see."""
    return {info.key for info in open_storage(uri).list() if not info.key.startswith(".")}


def plain(uri):
    storage = open_storage(uri)
    filesystem, base = storage.arrow()
    rows = [
        row
        for key in shards(uri)
        for row in pq.read_table(f"{base}/{key}", filesystem=filesystem).to_pylist()
    ]
    assert len({row["clip_id"] for row in rows}) == len(rows)
    return {row["clip_id"]: row["caption"] for row in rows}


def test_a_caption_is_corrected_and_all_else_stays(uri):
    storage, before, clips = open_storage(uri), captions(uri), read_clips(uri)
    manifest, objects = read_manifest(storage), {key: storage.get(key) for key in shards(uri)}
    changed = clips[0].clip_id
    (was,) = amend(storage, {changed: "  the right \n words "})
    assert was.caption == before[changed]
    assert captions(uri) == plain(uri) == {**before, changed: "the right words"}
    assert [clip.video for clip in read_clips(uri)] == [clip.video for clip in clips]
    assert concepts_in(uri) == {"a": 2, "b": 1, "c": 1}
    # the other shard is the same object; the old one is there for who has read the manifest before
    for key in shards(uri) & objects.keys():
        assert storage.get(key) == objects[key]
    assert len(shards(uri) & objects.keys()) == 1
    assert sum(read_shard(storage, shard).num_rows for shard in manifest.shards) == 4
    # and back: the shard of the beginning again
    amend(storage, {changed: before[changed]})
    assert captions(uri) == plain(uri) == before
    assert shards(uri) == set(objects)
    amend(storage, {changed: before[changed]})  # nothing to change
    assert shards(uri) == set(objects)


def test_clips_are_taken_out_and_may_come_again(uri):
    storage, before, clips = open_storage(uri), captions(uri), read_clips(uri)
    amend(storage, {clips[0].clip_id: None, clips[2].clip_id: None, clips[3].clip_id: "other words"})
    assert (
        captions(uri)
        == plain(uri)
        == {clips[1].clip_id: before[clips[1].clip_id], clips[3].clip_id: "other words"}
    )
    assert concepts_in(uri) == {"a": 1, "c": 1}
    write_set(uri, *sliding_clips("a"))
    assert concepts_in(uri) == {"a": 2, "c": 1}
    amend(storage, dict.fromkeys(captions(uri)))
    assert captions(uri) == {}
    assert shards(uri) == set()
    write_set(uri, *sliding_clips("a"))
    assert concepts_in(uri) == {"a": 2}


def test_an_ingest_meanwhile_is_not_lost_and_a_killed_amendment_is_finished(tmp_path, monkeypatch):
    uri = write_set(tmp_path / "set", *sliding_clips("a"))
    storage, clips = open_storage(uri), read_clips(uri)
    swap, once = type(storage).replace_if, []

    def late(self, key, data, etag):
        if key == MANIFEST and not once:
            once.append(key)
            write_set(uri, *sliding_clips("b", count=1))
        return swap(self, key, data, etag)

    monkeypatch.setattr(type(storage), "replace_if", late)
    monkeypatch.setattr("datasets.clip_sets.amend.settle", lambda storage: None)  # killed after the commit
    amend(storage, {clips[0].clip_id: "other words"})
    assert concepts_in(uri) == {"a": 2, "b": 1}
    assert captions(uri)[clips[0].clip_id] == "other words"
    settle(storage)
    assert captions(uri) == plain(uri)
    # what was replaced is kept a day for readers under way, however old it is, and then deleted
    (old,) = (tmp_path / "set" / STAGING).iterdir()
    settle(storage)
    assert old.exists()
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    settle(storage)
    assert not old.exists()


def test_what_is_not_there_or_no_caption_changes_nothing(tmp_path):
    uri = write_set(tmp_path / "set", *sliding_clips("a"))
    storage, (one, two) = open_storage(uri), read_clips(uri)
    before = storage.get(MANIFEST)
    for changes, code in (
        ({"0" * 32: None}, "clip_not_found"),
        ({one.clip_id: "x", "0" * 32: "y"}, "clip_not_found"),
        ({one.clip_id: "x", two.clip_id: " "}, "invalid_caption"),
        ({one.clip_id: "x" * 2001}, "invalid_caption"),
        ({one.clip_id: "a\x00b"}, "invalid_caption"),
    ):
        with pytest.raises(UserError) as refused:
            amend(storage, changes)
        assert refused.value.code == code
    assert storage.get(MANIFEST) == before
    assert [clip.clip_id for clip in find(uri, [two.clip_id[:8].upper(), one.clip_id])] == [
        two.clip_id,
        one.clip_id,
    ]
    for text in ("", "abc", "zzzzzz"):
        with pytest.raises(UserError, match="digits of one id"):
            find(uri, [text])
    with pytest.raises(UserError, match="no clips at"):
        find(str(tmp_path / "nothing"), ["abcd"])


def test_a_corrected_caption_is_what_the_same_ingest_finds(tmp_path):
    clip = sliding_clips("a", count=1)[0]
    uri = write_set(tmp_path / "set", clip)
    amend(open_storage(uri), {clip.clip_id: "other words"})
    spool = open_storage(tmp_path / "spool")
    (twin,) = append(open_storage(uri), [Pending.spooled(clip, spool)], spool)
    assert (twin.clip_id, twin.caption) == (clip.clip_id, "other words")


# --- the commands ------------------------------------------------------------------------------------------------


def command(*arguments, answer=None):
    return commands.command(motiondirector.commands.clips, "clips", *arguments, answer=answer)


def test_the_commands_list_edit_and_remove(tmp_path):
    uri = write_set(tmp_path / "set", *sliding_clips("a"), *sliding_clips("b", count=1, caption="word " * 60))
    first, second, third = read_clips(uri)
    code, output = command("list", uri)
    assert code == 0
    assert all(clip.clip_id[:12] in output for clip in (first, second, third))
    assert "3 clips in" in output
    assert "reads only the first 30 tokens of the caption; ignored: 'word" in " ".join(output.split())
    listed = json.loads(command("list", uri, "--concept", "a", "--json")[1])
    assert [(row["clip_id"], row["fps"], row["warning"]) for row in listed] == [
        (first.clip_id, 8.0, None),
        (second.clip_id, 8.0, None),
    ]
    assert command("edit", uri, first.clip_id[:8], "--caption", "the right words")[0] == 0
    (tmp_path / "fix.csv").write_text(
        f'clip,caption\n{second.clip_id},"one, two"\n{third.clip_id[:10]},three\n'
    )
    code, output = command("edit", uri, "--captions", tmp_path / "fix.csv", "--json")
    assert [row["caption"] for row in json.loads(output)] == ["one, two", "three"]
    assert captions(uri) == {
        first.clip_id: "the right words",
        second.clip_id: "one, two",
        third.clip_id: "three",
    }
    assert command("rm", uri, first.clip_id[:8], answer="n\n")[0] == 1
    assert len(captions(uri)) == 3
    assert command("rm", uri, first.clip_id[:8], answer="y\n")[0] == 0
    assert command("rm", uri, "--concept", "b", "--yes")[0] == 0
    assert captions(uri) == {second.clip_id: "one, two"}


def test_the_commands_refuse_in_one_sentence(tmp_path):
    uri = write_set(tmp_path / "set", *sliding_clips("a"))
    (tmp_path / "fix.csv").write_text("clip,text\nabcdef,x\n")
    for arguments, says in (
        (("edit", uri), "expected CLIP and --caption TEXT"),
        (("edit", uri, "abcd"), "expected CLIP and --caption TEXT"),
        (("edit", uri, "--captions", tmp_path / "fix.csv"), "no column `caption` among clip, text"),
        (("edit", uri, "--captions", tmp_path / "fix.txt"), "expected one of .csv"),
        (("rm", uri), "expected CLIP..., or --concept NAME"),
        (("rm", uri, "--concept", "z"), "no clips of concept 'z'"),
        (("list", uri, "--concept", "z"), "no clips of concept 'z'"),
        (("list", tmp_path / "nothing"), "no clips at"),
    ):
        code, message = command(*arguments)
        assert code == 2
        assert says in message
